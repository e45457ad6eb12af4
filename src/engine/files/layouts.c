/*
 * layouts.c
 *     A list of layouts with the numbers of their owners.
 *
 * Locking: the mutex protects the list and the numbers.
 */
#include "layouts.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/protocol.h"
#include "engine/base/alloc.h"

struct ia3_layouts {
    ia3_config config;
    const ia3_method *const *methods;
    ia3_layout **standard; /* of the methods, each with one owner more than the adapters */
    pthread_mutex_t lock;
    ia3_layout *first; /* all of them, linked through `next` */
};

/* Finds the layout or makes it, and adds an owner; the caller holds the lock. */
static ia3_layout *
get(ia3_layouts *ls, ia3_variant variant)
{
    ia3_layout *l = ls->first;

    ia3_variant_fit(&variant, &ls->config);
    while (l && !ia3_variant_equal(&l->variant, &variant))
        l = l->next;
    if (l == NULL) {
        l = ia3_layout_create(&ls->config, variant);
        l->home = ls;
        l->next = ls->first;
        ls->first = l;
    }
    l->owners++;
    return l;
}

ia3_layouts *
ia3_layouts_create(const ia3_config *config, const ia3_method *const *methods)
{
    ia3_layouts *ls = ia3_alloc(sizeof *ls);
    int n = 0;

    while (methods[n])
        n++;
    ls->config = *config;
    ls->methods = methods;
    pthread_mutex_init(&ls->lock, NULL);
    ls->standard = ia3_alloc_array((size_t) n + 1, sizeof *ls->standard);
    for (int i = 0; i < n; i++)
        ls->standard[i] = get(ls, ia3_variant_standard(methods[i]));
    return ls;
}

void
ia3_layouts_free(ia3_layouts *ls)
{
    if (ls == NULL)
        return;
    for (ia3_layout *l = ls->first, *next; l; l = next) {
        next = l->next;
        ia3_layout_free(l);
    }
    pthread_mutex_destroy(&ls->lock);
    free(ls->standard);
    free(ls);
}

const ia3_method *const *
ia3_layouts_methods(const ia3_layouts *ls)
{
    return ls->methods;
}

const ia3_layout *
ia3_layouts_standard(const ia3_layouts *ls, int i)
{
    return ls->standard[i];
}

/* Whether the backbone has none of the kinds of linear layers in an option. */
static bool
lacks_targets(const ia3_variant *v)
{
    const ia3_method_option *options = v->method->options;

    for (int i = 0; options && options[i].name; i++)
        if (options[i].kind == IA3_OPTION_KINDS && v->options[i] == 0)
            return true;
    return false;
}

static bool
check(const ia3_layout *l, ia3_error *err)
{
    const int d_model = l->home->config.d_model, multiple = l->variant.method->d_model_multiple;
    const size_t bytes = l->n_values * sizeof(float), limit = IA3_MAX_VALUE_BYTES;
    const char *name = l->variant.method->name;

    if (lacks_targets(&l->variant))
        return ia3_fail(err, IA3_E_INVALID, "the backbone has none of the targets of the method \"%s\"",
                        name);
    if (multiple != 0 && d_model % multiple != 0) {
        ia3_fail(err, IA3_E_INVALID, "the backbone cannot have adapters of the method \"%s\"", name);
        return ia3_fail_detail(err, "Its \"d_model\" is %d, which is not a multiple of %d.", d_model,
                               multiple);
    }
    if (l->variant.method->suits && !l->variant.method->suits(l->member ? l->member : l, err))
        return false;
    if (bytes <= limit)
        return true;
    ia3_fail(err, IA3_E_TOO_LONG, "adapters of this configuration of the method \"%s\" are too large", name);
    return ia3_fail_detail(err, "Each would have %zu bytes, but the limit is %zu.", bytes, limit);
}

const ia3_layout *
ia3_layouts_get(ia3_layouts *ls, const ia3_variant *variant, ia3_error *err)
{
    pthread_mutex_lock(&ls->lock);

    const ia3_layout *l = get(ls, *variant);

    pthread_mutex_unlock(&ls->lock);
    if (check(l, err))
        return l;
    ia3_layout_release(l);
    return NULL;
}

const ia3_layout *
ia3_layout_retain(const ia3_layout *l)
{
    if (l->home) {
        pthread_mutex_lock(&l->home->lock);
        ((ia3_layout *) l)->owners++;
        pthread_mutex_unlock(&l->home->lock);
    }
    return l;
}

void
ia3_layout_release(const ia3_layout *l)
{
    ia3_layouts *ls = l ? l->home : NULL;

    if (ls == NULL)
        return;
    pthread_mutex_lock(&ls->lock);
    if (--((ia3_layout *) l)->owners == 0) {
        ia3_layout **at = &ls->first;

        while (*at != l)
            at = &(*at)->next;
        *at = l->next;
        ia3_layout_free((ia3_layout *) l);
    }
    pthread_mutex_unlock(&ls->lock);
}
