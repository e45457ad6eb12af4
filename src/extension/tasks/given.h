/*
 * given.h
 *     Which versions there have ever been, so that no pair of a task's name and a number is given to two different ones.
 *
 * Indexes and generated columns keep what ia3_predict_version returned for such a pair. ia3.given_version has a row for each pair, also
 * of versions that have been dropped, with a fingerprint of the version. A trigger of ia3.adapter fills it in, and
 * refuses another version under a number that has been given; the same version may come back, as it does when a task is dropped and
 * imported again.
 */
#ifndef IA3_GIVEN_H
#define IA3_GIVEN_H

/* SQL: what tells versions apart, from expressions for the digest of the vectors and columns of ia3.adapter. */
#define IA3_FINGERPRINT(digest, backbone_digest, recipe, temperature)                                        \
    "pg_catalog.sha256((" digest ") OPERATOR(pg_catalog.||) (" backbone_digest                               \
    ") OPERATOR(pg_catalog.||) pg_catalog.convert_to((" recipe ")::pg_catalog.text, 'UTF8')"                 \
    " OPERATOR(pg_catalog.||) COALESCE(pg_catalog.float8send(" temperature "), ''))"

/* SQL: the highest number that has been given under the name; 0 if there is none. */
#define IA3_HIGHEST_GIVEN(name)                                                                              \
    "COALESCE((SELECT pg_catalog.max(h.version) FROM ia3.given_version h"                                    \
    " WHERE h.task OPERATOR(pg_catalog.=) " name "), 0)"

/*
 * What has to be added to the numbers of a task's versions if they get another name: 0, unless a number has been given to another version
 * of that name. Runs inside SPI, as the owner of the tables.
 */
extern int Ia3GivenShift(const char *task, const char *name);
/* Says in a NOTICE that numbers have been increased, unless the shift is 0. */
extern void Ia3GivenReportShift(const char *name, int shift);

#endif
