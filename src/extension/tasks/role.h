/*
 * role.h
 *     The type ia3.role: a role that keeps its meaning when a row moves to another cluster.
 *
 * A role of this cluster is stored as its OID, so that it can be renamed, and so that nobody inherits what belonged to
 * it by taking its name after it has been dropped. It is written as its current name, quoted like an identifier; a role
 * that has been dropped is written as the number that was its OID. A name that no role of the cluster has when it is
 * read in stays a name: it means whatever role has that name at the time of use. A number that is read in means nobody,
 * because OIDs of another cluster mean nothing here. "-" stands for everybody.
 *
 * Rows leave a cluster only as text (a dump, logical replication in either format), never as stored bytes: pg_upgrade
 * and physical copies preserve the OIDs of roles.
 */
#ifndef IA3_ROLE_H
#define IA3_ROLE_H

#include "postgres.h"

#include "fmgr.h"

typedef struct Ia3Role {
    int32 header; /* varlena */
    Oid oid;      /* of a role of this cluster, which may have been dropped; InvalidOid: see text */
    char text
        [FLEXIBLE_ARRAY_MEMBER]; /* as written, with a NUL: a name, a number or "-"; "" if there is an OID */
} Ia3Role;

#define DatumGetIa3RoleP(d) ((Ia3Role *) PG_DETOAST_DATUM(d))

/* The OID of the role if it exists now, otherwise InvalidOid, also for everybody. */
extern Oid Ia3RoleOid(const Ia3Role *role);
/* Whether the value stands for everybody. */
extern bool Ia3RoleIsPublic(const Ia3Role *role);
/* How the value is written, palloc'd; two values are equal if they are written alike. */
extern char *Ia3RoleText(const Ia3Role *role);
/* How a role would be written that has this name (not quoted) or, if there is none, had this OID; palloc'd. */
extern char *Ia3RoleTextOfName(const char *name);
/* Whether `user` has the privileges of the role. Those of a role that does not exist only superusers have. */
extern bool Ia3RoleIsHeldBy(const Ia3Role *role, Oid user);

#endif
