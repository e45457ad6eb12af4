/*
 * levels.h
 *     Choices that are paths in a hierarchy: the upper levels of an answer.
 */
#ifndef IA3_LEVELS_H
#define IA3_LEVELS_H

#include "ranking.h"

#define IA3_DEFAULT_SEPARATOR " > "

/*
 * The answer with each choice cut off after `depth` levels, which the separator divides: choices that begin with the same levels
 * become one. Its probability is the sum of theirs, its score and its position are those of the best of them. The most probable one comes
 * first, and of equals the one that ranked higher. palloc'd; a choice that is not cut points to the ranking's string.
 */
extern Ia3Ranking *Ia3LevelsGroup(const Ia3Ranking *ranking, int depth, const char *separator);

/* The arguments depth, 0 if it is NULL, and separator of a call. ERROR 22023 unless depth is positive and separator not empty. */
extern int Ia3LevelsDepth(FunctionCallInfo fcinfo, int arg);
extern const char *Ia3LevelsSeparator(FunctionCallInfo fcinfo, int arg);

#endif
