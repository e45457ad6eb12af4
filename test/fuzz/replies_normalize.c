/*
 * replies_normalize.c
 *     ia3_import's reader of the reply to NORMALIZE, for fuzz_replies.c; the function itself needs a whole server.
 */
#include "extension/tasks/interchange.c"

#include "replies.h"

void
replies_normalize(void)
{
    static const char bytes[] = "adapter";
    bytea *adapter = palloc(VARHDRSZ + sizeof bytes);
    Import import = {.backbone = "fuzz"};

    SET_VARSIZE(adapter, VARHDRSZ + sizeof bytes);
    memcpy(VARDATA(adapter), bytes, sizeof bytes);
    normalize(&import, adapter);
    for (int i = 0; i < import.modules.n; i++)
        if (import.modules.names[i] == NULL)
            abort();
}
