/*
 * score_request.h
 *     One SCORE request: any number of rows, of any tasks of one backbone, each with its choices. Or one GENERATE
 *     request, whose rows have no choices but say how to continue.
 */
#ifndef IA3_SCORE_REQUEST_H
#define IA3_SCORE_REQUEST_H

#include "extension/tasks/task.h"
#include "extension/tasks/template.h"

typedef struct Ia3ScoreRequest Ia3ScoreRequest;

typedef struct Ia3ScoreResult {
    bool ok;
    int n;          /* choices */
    double *scores; /* [n] mean log-likelihood per token, natural logarithm, in the order of the choices */
    char *text;     /* of a GENERATE request, instead of scores */
    /* when not ok: what the engine says about this row */
    uint32 code;
    char *message, *detail, *hint;
} Ia3ScoreResult;

/* How to continue an input. */
typedef struct Ia3Sampling {
    int maxTokens;
    double temperature; /* 0: greedy, and the rest does not matter */
    int topK;           /* 0: all */
    uint64 seed;
} Ia3Sampling;

/* Everything of a request lives in the memory context that is current here. */
extern Ia3ScoreRequest *Ia3ScoreCreate(const char *backbone);
extern Ia3ScoreRequest *Ia3GenerateCreate(const char *backbone);

/*
 * Each returns the index that rows name. A task that is already there (same digest) is not added twice; NULL
 * is the bare backbone. The task must be of this request's backbone and outlive the request. `choices` must
 * have passed Ia3CheckChoices.
 */
extern int Ia3ScoreAddAdapter(Ia3ScoreRequest *request, const Ia3Task *task);
extern int Ia3ScoreAddChoices(Ia3ScoreRequest *request, const Ia3Strings *choices);
extern int Ia3ScoreAddRow(Ia3ScoreRequest *request, int adapter, int choices, const Ia3Input *input);
extern int Ia3GenerateAddRow(Ia3ScoreRequest *request, int adapter, const Ia3Sampling *sampling,
                             const Ia3Input *input);

/*
 * Sends the rows, supplies the adapters that the engine asks for, and returns one result per row. ERROR for
 * whatever concerns the whole request; a row's own error is in its result.
 */
extern Ia3ScoreResult *Ia3ScoreRun(Ia3ScoreRequest *request);

/*
 * The same in two steps: between them the caller may do other things, other requests to the same engine
 * included. A request whose connection was closed in between (by an aborted subtransaction) is sent again.
 */
extern void Ia3ScoreSend(Ia3ScoreRequest *request);
extern Ia3ScoreResult *Ia3ScoreCollect(Ia3ScoreRequest *request);
/* Instead of collecting; does nothing when the request is not under way. Raises no ERROR. */
extern void Ia3ScoreDrop(Ia3ScoreRequest *request);

/* Raises the row's error, if it has one; `context` may be NULL. */
extern void Ia3ScoreCheck(const Ia3ScoreResult *result, const char *context);

#endif
