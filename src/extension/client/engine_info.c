/*
 * engine_info.c
 *     The fixed exchanges with an engine: greeting, INFO and STATS, and its errors as PostgreSQL's.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "client.h"
#include "string_list.h"

/* A monitoring query does not wait longer than this for an engine that should answer at once. */
#define IA3_STATS_TIMEOUT_MS 2000

typedef struct SmallRequest {
    ia3_writer w;
    uint8 bytes[128];
} SmallRequest;

static uint8_t *
no_grow(uint8_t *data, size_t len, size_t cap)
{
    elog(ERROR, "request does not fit");
    return NULL;
}

static ia3_writer *
begin_small(SmallRequest *request)
{
    request->w = (ia3_writer){request->bytes, 0, sizeof request->bytes, no_grow};
    ia3_put_room(&request->w, IA3_FRAME_HEADER);
    return &request->w;
}

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

static bool
read_info(ia3_reader *reader, Ia3EngineInfo *info)
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

/* HELLO, then INFO, on a fresh connection; leaves it idle. */
Ia3IoResult
Ia3Greet(Ia3Connection *conn, ia3_reader *reader, TimestampTz deadline)
{
    SmallRequest hello, ask;
    char client[32];
    Ia3IoResult result;

    snprintf(client, sizeof client, "pid %d", MyProcPid);
    begin_small(&hello);
    ia3_put_u32(&hello.w, IA3_PROTOCOL_MAGIC);
    ia3_put_u32(&hello.w, IA3_PROTOCOL_VERSION);
    ia3_put_str(&hello.w, client, strlen(client));
    result = Ia3Exchange(conn, IA3_HELLO, &hello.w, IA3_HELLO_OK, reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    if (ia3_get_u32(reader) != IA3_PROTOCOL_VERSION)
        return reader->bad ? IA3_IO_GARBLED : IA3_IO_VERSION;

    result = Ia3Exchange(conn, IA3_INFO, begin_small(&ask), IA3_INFO_OK, reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    return read_info(reader, &conn->info) ? IA3_IO_OK : IA3_IO_GARBLED;
}

/* Asks for the counters. */
static Ia3IoResult
ask_stats(Ia3Connection *conn, double *values, TimestampTz deadline)
{
    SmallRequest request;
    ia3_reader reader;
    Ia3IoResult result;
    uint32 n;

    result = Ia3Exchange(conn, IA3_STATS, begin_small(&request), IA3_STATS_OK, &reader, deadline);
    if (result != IA3_IO_OK)
        return result;
    n = ia3_get_count(&reader, 12);
    for (uint32 i = 0; i < IA3_N_STATS; i++) {
        size_t len;

        if (i < n)
            ia3_get_str(&reader, &len);
        values[i] = i < n ? ia3_get_f64(&reader) : 0;
    }
    return n < IA3_N_STATS || reader.bad ? IA3_IO_GARBLED : IA3_IO_OK;
}

/*
 * The counters, values[IA3_N_STATS], of the engine with that entry, and what it is. False if it is not ready or
 * does not answer within two seconds; raises nothing but interrupts.
 */
bool
Ia3GetEngineStats(const Ia3EngineStatus *status, double *values, Ia3EngineInfo *info)
{
    TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), IA3_STATS_TIMEOUT_MS);
    Ia3Connection *conn = Ia3KeptConnection(status->generation);
    bool kept = conn != NULL;
    bool answered;

    if (!kept)
        conn = Ia3OpenSeparate(status, deadline);
    if (conn == NULL)
        return false;
    answered = ask_stats(conn, values, deadline) == IA3_IO_OK;
    *info = conn->info;
    if (!kept || !answered)
        Ia3CloseConnection(conn);
    return answered;
}

static int
error_code_to_sql_state(uint32 code)
{
    switch (code) {
    case IA3_E_PROTOCOL:
        return ERRCODE_PROTOCOL_VIOLATION;
    case IA3_E_INVALID:
    case IA3_E_CHOICES:
        return ERRCODE_INVALID_PARAMETER_VALUE;
    case IA3_E_TOO_LONG:
        return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
    case IA3_E_BAD_ADAPTER:
        return ERRCODE_INVALID_BINARY_REPRESENTATION;
    case IA3_E_BAD_CHECKPOINT:
        return ERRCODE_CONFIG_FILE_ERROR;
    case IA3_E_MEMORY:
        return ERRCODE_OUT_OF_MEMORY;
    case IA3_E_CANCELLED:
        return ERRCODE_QUERY_CANCELED;
    case IA3_E_UNAVAILABLE:
        return ERRCODE_CANNOT_CONNECT_NOW;
    case IA3_E_FILE:
        return ERRCODE_IO_ERROR;
    case IA3_E_UNSUPPORTED:
        return ERRCODE_FEATURE_NOT_SUPPORTED;
    default:
        return ERRCODE_INTERNAL_ERROR;
    }
}

/* Raises an engine's error; `detail` and `hint` may be NULL or empty, `context` NULL. All in server encoding (Ia3GetText). */
void
Ia3RaiseEngineError(uint32 code, const char *message, const char *detail, const char *hint,
                    const char *context)
{
    ereport(ERROR, (errcode(error_code_to_sql_state(code)), errmsg_internal("%s", message),
                    detail != NULL && detail[0] != '\0' ? errdetail_internal("%s", detail) : 0,
                    hint != NULL && hint[0] != '\0' ? errhint("%s", hint) : 0,
                    context != NULL ? errcontext("%s", context) : 0));
    pg_unreachable();
}

/* Raises the error that an ERROR frame carries. */
void
Ia3RaiseErrorFrame(ia3_reader *reader)
{
    uint32 code = ia3_get_u32(reader);
    char *message = Ia3GetText(reader);
    char *detail = Ia3GetText(reader);
    char *hint = Ia3GetText(reader);

    if (reader->bad)
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("ia3 engine sent an error that cannot be understood")));
    Ia3RaiseEngineError(code, message, detail, hint, NULL);
}
