/*
 * merger.c
 *     MERGE requests. Of the model only the layout is read, which never changes.
 */
#include "merger.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/files/merge.h"

ia3_request *
ia3_merger_parse(const ia3_frame *frame, ia3_error *err)
{
    ia3_reader in = {.p = frame->data, .end = frame->data + frame->len};
    size_t n_method, n_adapter, n_directory;
    const char *method = ia3_get_str(&in, &n_method);
    const char *adapter = ia3_get_str(&in, &n_adapter);
    const char *directory = ia3_get_str(&in, &n_directory);

    if (in.bad || in.p != in.end)
        ia3_fail(err, IA3_E_PROTOCOL, "malformed MERGE message");
    else if (n_directory == 0 || n_directory >= PATH_MAX || memchr(directory, '\0', n_directory) != NULL)
        ia3_fail(err, IA3_E_INVALID, "directory name is empty, too long or contains a zero byte");
    if (err->code != 0) {
        free(frame->data);
        return NULL;
    }

    ia3_request *r = ia3_alloc(sizeof *r);

    r->type = IA3_MERGE;
    r->id = frame->request;
    r->frame = frame->data;
    r->frame_len = r->bytes = frame->len;
    r->arrived = ia3_now();
    atomic_init(&r->cancelled, false);
    r->merge.method = (ia3_span){method, (uint32_t) n_method};
    r->merge.adapter = (ia3_span){adapter, (uint32_t) n_adapter};
    r->merge.directory = (ia3_span){directory, (uint32_t) n_directory};
    return r;
}

/* The adapter's values, malloc'd, and its layout, which its tensors tell; NULL is an error. */
static float *
read_adapter(const ia3_server *s, const ia3_request *r, const ia3_layout **layout, ia3_error *err)
{
    const ia3_method *method =
        ia3_method_require(ia3_model_methods(s->model), r->merge.method.data, r->merge.method.len, err);

    if (method == NULL)
        return NULL;
    if (method->merge_suffix != NULL)
        return ia3_adapter_parse_any(ia3_model_layouts(s->model), (const uint8_t *) r->merge.adapter.data,
                                     r->merge.adapter.len, layout, err);
    ia3_fail(err, IA3_E_UNSUPPORTED, "only adapters of the method %s can be merged into the weights",
             ia3_model_layout(s->model)->variant.method->name);
    ia3_fail_hint(err, "Use ia3_export instead.");
    return NULL;
}

void
ia3_merger_run(const ia3_server *s, ia3_request *r)
{
    char directory[PATH_MAX];
    const ia3_layout *layout = NULL;
    float *values = read_adapter(s, r, &layout, &r->error);
    double started = ia3_now();

    memcpy(directory, r->merge.directory.data, r->merge.directory.len);
    directory[r->merge.directory.len] = '\0';
    if (values != NULL && layout->members > 1) {
        ia3_fail(&r->error, IA3_E_UNSUPPORTED, "an ensemble cannot be merged into the weights");
        ia3_fail_hint(&r->error, "Train one of its members alone, with its seed.");
    } else if (values != NULL && !atomic_load(&r->cancelled) &&
               ia3_merge(s->path, s->digest, &layout->variant, values, directory, &r->cancelled, &r->error))
        ia3_log(IA3_LOG_LOG, "merged checkpoint written to \"%s\" in %.1f s", directory, ia3_now() - started);
    free(values);
    ia3_layout_release(layout);
}
