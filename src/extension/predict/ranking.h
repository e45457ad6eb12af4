/*
 * ranking.h
 *     The answer to a call: its choices, best first.
 */
#ifndef IA3_RANKING_H
#define IA3_RANKING_H

#include "score_request.h"

typedef struct Ia3RankedChoice {
    const char *choice;
    int position; /* in the list of choices: decides between equal scores */
    double score;
    double probability;
} Ia3RankedChoice;

typedef struct Ia3Ranking {
    int n;
    Ia3RankedChoice *choices; /* best first */
} Ia3Ranking;

/* The answer to a call that asked for a text: it is the only choice. */
extern Ia3Ranking *Ia3RankingOfText(const char *text);

/* Points to the strings of `choices`. The result must be ok. ERROR XX000 for scores that are no numbers. */
extern Ia3Ranking *Ia3RankingMake(const Ia3Strings *choices, const Ia3ScoreResult *result);

/* A copy in one chunk of memory, strings included. */
extern Ia3Ranking *Ia3RankingCopy(const Ia3Ranking *ranking, MemoryContext context);
extern Size Ia3RankingSize(const Ia3Ranking *ranking);

#endif
