/*
 * role.c
 *     The type ia3.role: input, output, comparison and casts.
 *
 * All of these look at pg_authid, like those of regrole, so they are STABLE. Comparisons are made for queries; an index
 * over such a column would be corrupted by renaming a role.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "role.h"

PG_FUNCTION_INFO_V1(ia3_role_in);
PG_FUNCTION_INFO_V1(ia3_role_out);
PG_FUNCTION_INFO_V1(ia3_role_recv);
PG_FUNCTION_INFO_V1(ia3_role_send);
PG_FUNCTION_INFO_V1(ia3_role_from_regrole);
PG_FUNCTION_INFO_V1(ia3_role_to_regrole);
PG_FUNCTION_INFO_V1(ia3_role_cmp);
PG_FUNCTION_INFO_V1(ia3_role_hash);
PG_FUNCTION_INFO_V1(ia3_role_lt);
PG_FUNCTION_INFO_V1(ia3_role_le);
PG_FUNCTION_INFO_V1(ia3_role_eq);
PG_FUNCTION_INFO_V1(ia3_role_ne);
PG_FUNCTION_INFO_V1(ia3_role_ge);
PG_FUNCTION_INFO_V1(ia3_role_gt);

#define EVERYBODY "-"

static Ia3Role *
make_role(Oid oid, const char *text)
{
    Size size = offsetof(Ia3Role, text) + strlen(text) + 1;
    Ia3Role *role = palloc0(size);

    SET_VARSIZE(role, size);
    role->oid = oid;
    memcpy(role->text, text, strlen(text) + 1);
    return role;
}

static bool
is_number(const char *text)
{
    return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

/* The name that an identifier stands for, palloc'd: folded to lower case unless it is quoted. */
static char *
parse_identifier(const char *text)
{
    char *copy = pstrdup(text);
    List *names;

    if (!SplitIdentifierString(copy, '.', &names) || list_length(names) != 1)
        ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid name syntax"),
                        errdetail("\"%s\" is not the name of a role.", text)));
    return linitial(names);
}

static Ia3Role *
parse_role(const char *text)
{
    char *name;
    Oid oid;

    if (is_number(text)) {
        oid = DatumGetObjectId(DirectFunctionCall1(oidin, CStringGetDatum(text)));
        return make_role(InvalidOid, oid == ACL_ID_PUBLIC ? EVERYBODY : psprintf("%u", oid));
    }
    if (strcmp(text, EVERYBODY) == 0)
        return make_role(InvalidOid, EVERYBODY);
    name = parse_identifier(text);
    oid = get_role_oid(name, true);
    return make_role(oid, OidIsValid(oid) ? "" : quote_identifier(name));
}

Oid
Ia3RoleOid(const Ia3Role *role)
{
    if (OidIsValid(role->oid))
        return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role->oid)) ? role->oid : InvalidOid;
    if (is_number(role->text) || strcmp(role->text, EVERYBODY) == 0)
        return InvalidOid;
    return get_role_oid(parse_identifier(role->text), true);
}

bool
Ia3RoleIsPublic(const Ia3Role *role)
{
    return !OidIsValid(role->oid) && strcmp(role->text, EVERYBODY) == 0;
}

char *
Ia3RoleText(const Ia3Role *role)
{
    char *name;

    if (!OidIsValid(role->oid))
        return pstrdup(role->text);
    name = GetUserNameFromId(role->oid, true);
    return name ? pstrdup(quote_identifier(name)) : psprintf("%u", role->oid);
}

char *
Ia3RoleTextOfName(const char *name)
{
    if (is_number(name) && name[0] != '0' && !OidIsValid(get_role_oid(name, true)))
        return pstrdup(name);
    return pstrdup(quote_identifier(name));
}

bool
Ia3RoleIsHeldBy(const Ia3Role *role, Oid user)
{
    Oid oid = Ia3RoleOid(role);

    return OidIsValid(oid) ? has_privs_of_role(user, oid) : superuser_arg(user);
}

Datum
ia3_role_in(PG_FUNCTION_ARGS)
{
    PG_RETURN_POINTER(parse_role(PG_GETARG_CSTRING(0)));
}

Datum
ia3_role_out(PG_FUNCTION_ARGS)
{
    PG_RETURN_CSTRING(Ia3RoleText(DatumGetIa3RoleP(PG_GETARG_DATUM(0))));
}

/* The binary format is the text: a subscriber has OIDs of its own. */
Datum
ia3_role_recv(PG_FUNCTION_ARGS)
{
    StringInfo buffer = (StringInfo) PG_GETARG_POINTER(0);
    int len;

    PG_RETURN_POINTER(parse_role(pq_getmsgtext(buffer, buffer->len - buffer->cursor, &len)));
}

Datum
ia3_role_send(PG_FUNCTION_ARGS)
{
    char *text = Ia3RoleText(DatumGetIa3RoleP(PG_GETARG_DATUM(0)));
    StringInfoData buffer;

    pq_begintypsend(&buffer);
    pq_sendtext(&buffer, text, strlen(text));
    PG_RETURN_BYTEA_P(pq_endtypsend(&buffer));
}

Datum
ia3_role_from_regrole(PG_FUNCTION_ARGS)
{
    Oid oid = PG_GETARG_OID(0);

    if (oid == ACL_ID_PUBLIC)
        PG_RETURN_POINTER(make_role(InvalidOid, EVERYBODY));
    PG_RETURN_POINTER(make_role(oid, ""));
}

/* NULL for a role that does not exist */
Datum
ia3_role_to_regrole(PG_FUNCTION_ARGS)
{
    Ia3Role *role = DatumGetIa3RoleP(PG_GETARG_DATUM(0));
    Oid oid = Ia3RoleOid(role);

    if (!OidIsValid(oid) && !Ia3RoleIsPublic(role))
        PG_RETURN_NULL();
    PG_RETURN_OID(oid);
}

static int
compare(FunctionCallInfo fcinfo)
{
    return strcmp(Ia3RoleText(DatumGetIa3RoleP(PG_GETARG_DATUM(0))),
                  Ia3RoleText(DatumGetIa3RoleP(PG_GETARG_DATUM(1))));
}

Datum
ia3_role_cmp(PG_FUNCTION_ARGS)
{
    PG_RETURN_INT32(compare(fcinfo));
}

Datum
ia3_role_hash(PG_FUNCTION_ARGS)
{
    char *text = Ia3RoleText(DatumGetIa3RoleP(PG_GETARG_DATUM(0)));

    PG_RETURN_UINT32(hash_bytes((const unsigned char *) text, strlen(text)));
}

Datum
ia3_role_lt(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) < 0);
}

Datum
ia3_role_le(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) <= 0);
}

Datum
ia3_role_eq(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) == 0);
}

Datum
ia3_role_ne(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) != 0);
}

Datum
ia3_role_ge(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) >= 0);
}

Datum
ia3_role_gt(PG_FUNCTION_ARGS)
{
    PG_RETURN_BOOL(compare(fcinfo) > 0);
}
