/*
 * string_list.h
 *     Lists of strings: choices, templates, fields.
 *
 * Everything is palloc'd in the current memory context unless said otherwise.
 */
#ifndef IA3_STRING_LIST_H
#define IA3_STRING_LIST_H

typedef struct Ia3Strings {
    int n;
    char **items; /* NUL-terminated, server encoding */
} Ia3Strings;

/*
 * The elements of a text[]. ERROR 22004 when one is NULL, 2202E when the array has more than one dimension;
 * `what` names the argument in the message ("choices").
 */
extern Ia3Strings *Ia3StringsFromArray(Datum array, const char *what);
extern Datum Ia3StringsToArray(const Ia3Strings *strings);
extern char *Ia3StringsJoin(const Ia3Strings *strings, const char *separator);
extern bool Ia3StringsEqual(const Ia3Strings *a, const Ia3Strings *b);

/* Position of each distinct string, in order of first appearance. Lives in the context it was created in. */
typedef struct Ia3StringIndex Ia3StringIndex;
extern Ia3StringIndex *Ia3StringIndexCreate(void);
/* The string's position, 0-based; adds it (the string is not copied) when it is new. */
extern int Ia3StringIndexAdd(Ia3StringIndex *index, char *string, bool *found);
extern int Ia3StringIndexFind(Ia3StringIndex *index, const char *string); /* -1 when absent */
extern const Ia3Strings *Ia3StringIndexStrings(const Ia3StringIndex *index);

/* ERROR 22023 when there is no choice, one is empty or two are equal; 54000 if there are more than ia3.max_choices. */
extern void Ia3CheckChoices(const Ia3Strings *choices);

#endif
