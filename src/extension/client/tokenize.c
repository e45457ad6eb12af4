/*
 * tokenize.c
 *     ia3_tokenize: how a backbone's tokenizer splits a text.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "client.h"
#include "extension/guc.h"
#include "string_list.h"
#include "text.h"

PG_FUNCTION_INFO_V1(ia3_tokenize);

Datum
ia3_tokenize(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    text *input = PG_GETARG_TEXT_PP(0);
    ia3_writer *w;
    ia3_reader reader;
    uint32 n;

    w = Ia3RequestBegin(PG_NARGS() > 1 ? text_to_cstring(PG_GETARG_TEXT_PP(1)) : Ia3Backbone);
    Ia3PutText(w, VARDATA_ANY(input), VARSIZE_ANY_EXHDR(input));
    Ia3RequestSend(IA3_TOKENIZE);
    if (Ia3ReplyWait(&reader) != IA3_TOKENIZE_OK)
        Ia3ProtocolError("The engine did not answer TOKENIZE with tokens.");

    Ia3InitMaterializedSRF(fcinfo);
    n = ia3_get_count(&reader, 8);
    for (uint32 i = 0; i < n; i++) {
        Datum values[3];
        bool nulls[3] = {false};

        values[0] = Int32GetDatum((int32) i + 1);
        values[1] = Int32GetDatum((int32) ia3_get_u32(&reader));
        values[2] = CStringGetTextDatum(Ia3GetText(&reader));
        if (reader.bad)
            break;
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    if (reader.bad || reader.p != reader.end)
        Ia3ProtocolError("The tokens do not have the length they should have.");
    return (Datum) 0;
}
