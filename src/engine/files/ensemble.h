/*
 * ensemble.h
 *     Ensembles: several adapters of one variant that are one adapter. A prediction is the mean of their log-probabilities.
 *
 * The layout of an ensemble has the values of one member after another. The tensor T of member K is called "member.K.T".
 */
#ifndef IA3_ENSEMBLE_H
#define IA3_ENSEMBLE_H

#include "layout.h"
#include "safetensors.h"

/* Completes the layout of an ensemble, whose variant is known. */
void ia3_ensemble_layout(ia3_layout *l, const ia3_config *config);

/* The member that a tensor belongs to; *rest becomes the name without it. -1 if it belongs to none, and *rest the name. */
int ia3_ensemble_member(const char *tensor, const char **rest);

/*
 * The tensors of the first member, with their names alone, if there are members; else those of st. The result points into st; it
 * is freed by free(). *members becomes the number of members, 1 if there are none, or more than are allowed if they are not
 * numbered from 0.
 */
ia3_safetensors *ia3_ensemble_first(const ia3_safetensors *st, int *members);

#endif
