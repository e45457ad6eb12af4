/*
 * text.h
 *     Text on its way to an engine and back.
 *
 * What an engine reads and says is UTF-8. Nothing here fails because of what an engine says: bytes that are not UTF-8
 * become '?', and characters that the server encoding does not have are written as \uXXXX. Results are palloc'd in
 * the current memory context.
 */
#ifndef IA3_TEXT_H
#define IA3_TEXT_H

#include "common/wire.h"
#include "string_list.h"

/* A part of an input, in bytes. */
typedef struct Ia3InputField {
    int begin, end;
} Ia3InputField;

/*
 * The text of an input. `tail` is the offset of what follows the last field, or len when nothing does. The fields are
 * in the order of the text; there are none, unless they are what is shortened in an input that is too long.
 */
typedef struct Ia3Input {
    char *text;
    int len;
    int tail;
    int nFields;
    Ia3InputField *fields;
} Ia3Input;

/* Writes a `str`. */
extern void Ia3PutText(ia3_writer *w, const char *text, int len);
/* Writes an input; its offsets are those in server encoding and are converted, too. */
extern void Ia3PutInput(ia3_writer *w, const Ia3Input *input);
/* Writes a choice set. */
extern void Ia3PutChoices(ia3_writer *w, const Ia3Strings *choices, bool multiLabel);

/* Reads a `str` into a NUL-terminated string in server encoding. */
extern char *Ia3GetText(ia3_reader *r);
/* The same of a message that the supervisor passes on. */
extern char *Ia3EngineText(const char *message);

#endif
