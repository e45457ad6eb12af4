/*
 * score_request.h
 *     A SCORE request: any number of rows for any tasks of one backbone, each with its choices. Or a GENERATE request,
 *     whose rows have no choices but say how to generate.
 */
#ifndef IA3_SCORE_REQUEST_H
#define IA3_SCORE_REQUEST_H

#include "extension/tasks/task.h"
#include "extension/tasks/template.h"

typedef struct Ia3ScoreRequest Ia3ScoreRequest;

typedef struct Ia3ScoreResult {
    bool ok;
    int n; /* labels */
    double *
        scores; /* [n] mean log-likelihood per token (natural logarithm), in the order of the labels; of a label with
                     * several verbalizers, the mean of theirs. Of a multi-label task, how much more likely than "no" the
                     * answer "yes" is, as protocol.h says. */
    char *text; /* instead of scores: the result of a GENERATE request */
    /* if not ok: the error of this row */
    uint32 code;
    char *message, *detail, *hint;
} Ia3ScoreResult;

/* How to generate the text for an input. */
typedef struct Ia3Sampling {
    int maxTokens;
    double temperature; /* 0: greedy, and the other members do not matter */
    int topK;           /* 0: all */
    uint64 seed;
} Ia3Sampling;

/* Creates an empty request in the current memory context, in which everything that belongs to it will live. */
extern Ia3ScoreRequest *Ia3ScoreCreate(const char *backbone);
extern Ia3ScoreRequest *Ia3GenerateCreate(const char *backbone);
/* Inputs may have this many tokens, instead of ia3.max_input_tokens. */
extern void Ia3ScoreSetInputTokens(Ia3ScoreRequest *request, int maxInputTokens);

/*
 * Each of these returns the index that rows refer to. A task that has been added already (with the same digest) is
 * not added again; NULL is the bare backbone. The task must belong to the request's backbone and outlive the request.
 * The labels of `choices` must have passed Ia3CheckChoices; what the set points to must outlive the request.
 */
extern int Ia3ScoreAddAdapter(Ia3ScoreRequest *request, const Ia3Task *task);
extern int Ia3ScoreAddChoices(Ia3ScoreRequest *request, const Ia3ChoiceSet *choices);
extern int Ia3ScoreAddRow(Ia3ScoreRequest *request, int adapter, int choices, const Ia3Input *input);
extern int Ia3GenerateAddRow(Ia3ScoreRequest *request, int adapter, const Ia3Sampling *sampling,
                             const Ia3Input *input);

/*
 * Sends the rows, supplies the adapters that the engine lacks, and returns one result per row in the current memory
 * context. ERROR for anything that concerns the whole request; the error of a single row is in its result.
 */
extern Ia3ScoreResult *Ia3ScoreRun(Ia3ScoreRequest *request);

/*
 * The same in two steps, between which the caller may do other things, including other requests to the same engine.
 * If the connection is closed in between, by an aborted subtransaction, the request is sent again.
 */
extern void Ia3ScoreSend(Ia3ScoreRequest *request);
extern Ia3ScoreResult *Ia3ScoreCollect(Ia3ScoreRequest *request);
/* The FLOPs (common/cost.h) that the engine spent on the rows that have been collected. */
extern double Ia3ScoreFlops(const Ia3ScoreRequest *request);
/* Drops the request instead of collecting it; does nothing if none is in progress. Raises no ERROR. */
extern void Ia3ScoreDrop(Ia3ScoreRequest *request);

/* Raises the error of the row, if it has one, with `context`, which may be NULL, as its context. */
extern void Ia3ScoreCheck(const Ia3ScoreResult *result, const char *context);

#endif
