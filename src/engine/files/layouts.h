/*
 * layouts.h
 *     The layouts of a backbone's adapters: that of each variant is made when it is first needed, shared by all adapters
 *     of the variant, and freed with the last of them. So variants are the same if their layouts are.
 *
 * Threads: everything here may be called from any thread.
 */
#ifndef IA3_LAYOUTS_H
#define IA3_LAYOUTS_H

#include "method.h"

typedef struct ia3_layouts ia3_layouts;

/* `methods` are those whose adapters there may be; the list ends with NULL. */
ia3_layouts *ia3_layouts_create(const ia3_config *config, const ia3_method *const *methods);
/* Frees all layouts. */
void ia3_layouts_free(ia3_layouts *ls);

const ia3_method *const *ia3_layouts_methods(const ia3_layouts *ls);
/* The layout of a method's standard variant, which exists as long as ls; the method is number i of the list. */
const ia3_layout *ia3_layouts_standard(const ia3_layouts *ls, int i);

/*
 * The layout of a variant, which the caller releases. NULL with IA3_E_INVALID if the variant has no tensors in this
 * backbone, with IA3_E_TOO_LONG if its adapters do not fit in a message.
 */
const ia3_layout *ia3_layouts_get(ia3_layouts *ls, const ia3_variant *variant, ia3_error *err);
/* For one more owner, who releases it. Layouts that are nobody's (ia3_layout_create) are not counted. */
const ia3_layout *ia3_layout_retain(const ia3_layout *l);
/* NULL is allowed. */
void ia3_layout_release(const ia3_layout *l);

#endif
