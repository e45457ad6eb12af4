/*
 * fuzz_index.c
 *     Fuzzes the reader of model.safetensors.index.json, beside a real checkpoint of two files. In a checkpoint that it
 *     accepts, all weights must be readable.
 */
#include "files_directory.h"

#include "engine/files/checkpoint.h"

#define CHECKPOINT "test/golden/t5-erf-gelu-sharded/"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
copy(const char *name)
{
    char path[PATH_MAX];
    static uint8_t bytes[1 << 20];
    snprintf(path, sizeof path, CHECKPOINT "%s", name);
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        abort();
    files_write(name, bytes, fread(bytes, 1, sizeof bytes, f));
    fclose(f);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ia3_error err = {0};
    uint8_t digest[IA3_DIGEST_LEN];
    if (files_directory[0] == '\0') {
        copy("config.json");
        copy("model-00001-of-00002.safetensors");
        copy("model-00002-of-00002.safetensors");
    }
    files_write("model.safetensors.index.json", data, size);
    ia3_checkpoint *ck = ia3_checkpoint_open(files_directory, &err);
    if ((ck == NULL) != (err.code == IA3_E_BAD_CHECKPOINT))
        abort();
    if (ck != NULL && !ia3_checkpoint_digest(ck, digest, NULL, NULL, &err))
        abort();
    ia3_checkpoint_close(ck);
    return 0;
}
