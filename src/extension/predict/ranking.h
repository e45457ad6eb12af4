/*
 * ranking.h
 *     The answer to a call: its choices, best first.
 */
#ifndef IA3_RANKING_H
#define IA3_RANKING_H

#include "score_request.h"

typedef struct Ia3RankedChoice {
    const char *choice;
    int position; /* in the list of choices; the first of equal scores ranks higher */
    double score;
    double probability;
} Ia3RankedChoice;

typedef struct Ia3Ranking {
    int n;
    Ia3RankedChoice *choices; /* best first */
} Ia3Ranking;

/* A generated text as an answer: it is the only choice. Points to `text`. */
extern Ia3Ranking *Ia3RankingOfText(const char *text);

/*
 * Ranks the choices by their scores; the result must be ok. Points to the strings of `choices`. ERROR XX000 for
 * scores that are not finite.
 */
extern Ia3Ranking *Ia3RankingMake(const Ia3Strings *choices, const Ia3ScoreResult *result);

/* A copy in a single chunk of memory, strings included. */
extern Ia3Ranking *Ia3RankingCopy(const Ia3Ranking *ranking, MemoryContext context);
/* The size of that chunk. */
extern Size Ia3RankingSize(const Ia3Ranking *ranking);

#endif
