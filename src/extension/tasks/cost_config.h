/*
 * cost_config.h
 *     The sizes of a backbone, from its configuration.
 */
#ifndef IA3_COST_CONFIG_H
#define IA3_COST_CONFIG_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "common/cost.h"

/*
 * Reads what cost.h needs from a config.json of a T5 or GPT-2, with defaults where transformers' configurations leave
 * members out; the sizes themselves must be there. *drops becomes whether there is dropout in training. ERROR 22023 if a
 * member is missing or malformed.
 */
extern ia3_sizes Ia3CostConfigRead(Jsonb *config, bool *drops);

#endif
