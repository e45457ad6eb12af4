/*
 * json_text.h
 *     JSON in values of the types json and text, whose bytes are the same.
 */
#ifndef IA3_JSON_TEXT_H
#define IA3_JSON_TEXT_H

#include "utils/jsonb.h"

/* Whether the text is a JSON object. ERROR 54001 for one that is nested too deep, and for nothing else in it. */
extern bool Ia3IsJsonObject(const char *text);

/* The value of a json or text Datum as jsonb; palloc'd. ERROR 22P02 for text that is no JSON, and others of jsonb_in. */
extern Jsonb *Ia3JsonbFromText(Datum value);

#endif
