#include "postgres.h"

#include "engine_info.h"

/* Copies a string of the frame, cut to the space there is. */
static void
copy_string(ia3_reader *reader, char *dst, size_t size)
{
    size_t n;
    const char *s = ia3_get_str(reader, &n);

    n = Min(n, size - 1);
    memcpy(dst, s, n);
    dst[n] = '\0';
}

bool
Ia3EngineInfoRead(ia3_reader *reader, Ia3EngineInfo *info)
{
    const uint8 *digest;

    memset(info, 0, sizeof *info);
    copy_string(reader, info->name, sizeof info->name);
    copy_string(reader, info->path, sizeof info->path);
    copy_string(reader, info->device, sizeof info->device);
    copy_string(reader, info->deviceDescription, sizeof info->deviceDescription);
    copy_string(reader, info->dtype, sizeof info->dtype);
    copy_string(reader, info->modelType, sizeof info->modelType);
    digest = ia3_get_bytes(reader, IA3_DIGEST_LEN);
    if (digest != NULL)
        memcpy(info->digest, digest, IA3_DIGEST_LEN);
    info->parameters = ia3_get_u64(reader);
    info->bytes = ia3_get_u64(reader);
    info->adapterValues = ia3_get_u64(reader);
    info->vocabSize = ia3_get_u32(reader);
    info->dModel = ia3_get_u32(reader);
    info->nEncoderLayers = ia3_get_u32(reader);
    info->nDecoderLayers = ia3_get_u32(reader);
    info->dropoutRate = ia3_get_f64(reader);
    return !reader->bad;
}
