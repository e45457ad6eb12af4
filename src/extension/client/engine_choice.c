/*
 * engine_choice.c
 *     Remembers for the session which engine did not answer, and which one to stay with.
 */
#include "postgres.h"

#include "engine_choice.h"

/* An engine that is ready answers a greeting within this time; where there is another engine, we wait less long. */
#define GREETING_MS       5000
#define GREETING_SHORT_MS 1000

/* How long a session avoids an engine that did not answer, as long as there are others. */
#define HUNG_MS 30000

/* An engine that asked for adapters gets them, and then the request again. */
static char stayBackbone[NAMEDATALEN];
static Ia3EngineKey stayWith;

/* The engine that failed to answer last, and until when it is avoided. */
static uint32 hung = 0;
static Ia3Time hungUntil;

/* When all places are taken, the engine that has been avoided for longest makes room. */
bool
Ia3AvoidEngine(Ia3EngineWish *wish, uint32 generation)
{
    if (Ia3EngineAvoided(wish, generation))
        return false;
    if (wish->nAvoid == lengthof(wish->avoid))
        memmove(&wish->avoid[0], &wish->avoid[1], --wish->nAvoid * sizeof wish->avoid[0]);
    wish->avoid[wish->nAvoid++] = generation;
    return true;
}

void
Ia3AvoidHung(Ia3EngineWish *wish)
{
    if (hung != 0 && Ia3Now() < hungUntil)
        (void) Ia3AvoidEngine(wish, hung);
}

Ia3EngineWish
Ia3MakeWish(const char *backbone, bool training, const Ia3Connection *last)
{
    Ia3EngineWish wish = {.training = training};

    if (last != NULL)
        wish.present = last->engine;
    if (stayWith.generation != 0 && strcmp(stayBackbone, backbone) == 0) {
        wish.present = stayWith;
        wish.stay = true;
    }
    Ia3AvoidHung(&wish);
    return wish;
}

void
Ia3StayWith(const char *backbone, Ia3EngineKey engine)
{
    strlcpy(stayBackbone, backbone, sizeof stayBackbone);
    stayWith = engine;
}

void
Ia3StayNoLonger(void)
{
    stayWith.generation = 0;
}

Ia3IoResult
Ia3OpenReady(Ia3Connection *conn, const Ia3EngineStatus *status, Ia3EngineKey engine,
             const Ia3EngineWish *wish, ia3_reader *reader, Ia3Time deadline)
{
    bool others = Ia3CountEngines(status->spec.name, wish) > 1;
    Ia3Time now = Ia3Now();
    /* a short start_timeout must not cut the greeting */
    Ia3Time patience = Max(deadline, now + GREETING_MS);
    Ia3IoResult result;

    if (others)
        patience = now + GREETING_SHORT_MS;
    result = Ia3OpenConnection(conn, status, engine, reader, patience);
    if (result != IA3_IO_TIMEOUT || !others)
        return result;
    hung = engine.generation;
    hungUntil = Ia3Now() + HUNG_MS;
    return IA3_IO_GONE;
}
