/*
 * engine_info.c
 *     Reads what an engine says about itself.
 */
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

/* The length of a list; more than there is space for makes the reader bad. */
static int
read_count(ia3_reader *reader, size_t itemSize, int max)
{
    uint32 n = ia3_get_count(reader, itemSize);

    if (n > (uint32) max)
        reader->bad = true;
    return reader->bad ? 0 : (int) n;
}

static void
read_methods(ia3_reader *reader, Ia3EngineInfo *info)
{
    info->nMethods = read_count(reader, 32, IA3_MAX_METHODS);
    for (int i = 0; i < info->nMethods; i++) {
        Ia3EngineMethod *method = &info->methods[i];

        copy_string(reader, method->name, sizeof method->name);
        method->learningRate = ia3_get_f64(reader);
        method->steps = ia3_get_u32(reader);
        method->values = ia3_get_u64(reader);
        method->nOptions = ia3_get_u32(reader);
        copy_string(reader, method->noMean, sizeof method->noMean);
    }
}

static void
read_limits(ia3_reader *reader, Ia3EngineInfo *info)
{
    info->nLimits = read_count(reader, 20, IA3_MAX_LIMITS);
    for (int i = 0; i < info->nLimits; i++) {
        copy_string(reader, info->limits[i].name, sizeof info->limits[i].name);
        info->limits[i].min = ia3_get_f64(reader);
        info->limits[i].max = ia3_get_f64(reader);
    }
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
    read_methods(reader, info);
    read_limits(reader, info);
    return !reader->bad && info->nMethods > 0;
}
