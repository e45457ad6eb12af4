/*
 * ranking.h
 *     The answer to a call: its choices, best first.
 */
#ifndef IA3_RANKING_H
#define IA3_RANKING_H

#include "fmgr.h"

#include "score_request.h"

typedef struct Ia3RankedChoice {
    const char *choice;
    int position; /* in the list of choices; the first of equal scores ranks higher */
    double score;
    double probability;
    double threshold; /* of a multi-label task: the label is right if it is at least as likely */
} Ia3RankedChoice;

typedef struct Ia3Ranking {
    double minProbability; /* the task's: ia3_predict returns no choice that is less likely */
    bool multiLabel; /* any number of the choices are right, and their probabilities do not add up to 1 */
    int n;
    Ia3RankedChoice *choices; /* best first */
} Ia3Ranking;

/* A generated text as an answer: it is the only choice. Points to `text`. */
extern Ia3Ranking *Ia3RankingOfText(const char *text);

/*
 * Ranks the choices by their scores, or, of a multi-label task, by their probabilities, which is the same; the result must be ok. `task` has made them; NULL: the bare backbone. Points to the
 * strings of `choices`. ERROR XX000 for scores that are not finite.
 */
extern Ia3Ranking *Ia3RankingMake(const Ia3Task *task, const Ia3Strings *choices,
                                  const Ia3ScoreResult *result);

/* The argument min_probability of a call that has none, or NULL. */
#define IA3_TASK_MIN_PROBABILITY (-1.0)

/* An argument min_probability. ERROR 22023 unless it is from 0 to 1. */
extern double Ia3MinProbability(FunctionCallInfo fcinfo, int arg);
/* The same for a value. */
extern void Ia3CheckMinProbability(double minProbability);

/*
 * The best choice of a task that is not a multi-label one, or NULL if it is less likely than `minProbability`, or, with IA3_TASK_MIN_PROBABILITY, than the task
 * allows.
 */
extern const char *Ia3RankingBest(const Ia3Ranking *ranking, double minProbability);

/* Whether a label of a multi-label task is right: as likely as `minProbability`, or, with IA3_TASK_MIN_PROBABILITY, as its threshold. */
static inline bool
Ia3LabelIsPredicted(const Ia3RankedChoice *label, double minProbability)
{
    return label->probability >=
           (minProbability == IA3_TASK_MIN_PROBABILITY ? label->threshold : minProbability);
}

/* The labels of a multi-label task that are right, in the order of its choices. */
extern Ia3Strings *Ia3RankingLabels(const Ia3Ranking *ranking, double minProbability);

/* A copy in a single chunk of memory, strings included. */
extern Ia3Ranking *Ia3RankingCopy(const Ia3Ranking *ranking, MemoryContext context);
/* The size of that chunk. */
extern Size Ia3RankingSize(const Ia3Ranking *ranking);

#endif
