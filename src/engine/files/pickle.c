/*
 * pickle.c
 *     The stack machine of pickle.h. The instructions are those of Python's Lib/pickletools.py.
 *
 * A value costs the pickle at least one byte and is never copied, so memory is bounded by the length. Dictionaries and
 * lists may contain themselves; nothing here follows references.
 */
#include "pickle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "engine/base/alloc.h"

#define BLOCK ((size_t) 64 << 10)

typedef struct block {
    struct block *next;
    size_t used, size;
    char data[] __attribute__((aligned(16)));
} block;

struct ia3_pickle {
    block *blocks;
    const ia3_pickle_value *root;
};

/* The growing arrays of the machine hold values; NULL on the stack is a mark. */
typedef struct values {
    ia3_pickle_value **items;
    size_t n, room;
} values;

typedef struct machine {
    ia3_pickle *pickle;
    const uint8_t *data, *at, *end;
    const char *const *globals;
    const char *what;
    ia3_error *err;
    values stack, memo;
} machine;

enum {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_BINFLOAT = 'G',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINPERSID = 'Q',
    OP_REDUCE = 'R',
    OP_BINSTRING = 'T',
    OP_SHORT_BINSTRING = 'U',
    OP_BINUNICODE = 'X',
    OP_APPEND = 'a',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_APPENDS = 'e',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_EMPTY_LIST = ']',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_SETITEM = 's',
    OP_TUPLE = 't',
    OP_EMPTY_TUPLE = ')',
    OP_SETITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_PROTO = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
    OP_SHORT_BINUNICODE = 0x8c,
    OP_STACK_GLOBAL = 0x93,
    OP_MEMOIZE = 0x94,
    OP_FRAME = 0x95
};

/* This function and the next return false, and the machine stops at the first error. */
static bool
fail(machine *m, const char *message)
{
    return ia3_fail(m->err, IA3_E_BAD_CHECKPOINT, "%s: %s at byte %zu of the pickle", m->what, message,
                    (size_t) (m->at - m->data));
}

static bool
truncated(machine *m)
{
    return ia3_fail(m->err, IA3_E_BAD_CHECKPOINT, "%s: the pickle is truncated after %zu bytes", m->what,
                    (size_t) (m->end - m->data));
}

static void *
arena_alloc(machine *m, size_t size)
{
    block *b = m->pickle->blocks;
    size = (size + 15) / 16 * 16;
    if (b == NULL || b->size - b->used < size) {
        size_t room = size > BLOCK ? size : BLOCK;
        b = ia3_alloc(sizeof *b + room);
        *b = (block){.next = m->pickle->blocks, .size = room};
        m->pickle->blocks = b;
    }
    void *p = b->data + b->used;
    b->used += size;
    return p;
}

static void
append(values *v, ia3_pickle_value *value)
{
    if (v->n == v->room) {
        v->room = v->room ? 2 * v->room : 64;
        v->items = ia3_realloc(v->items, v->room * sizeof *v->items);
    }
    v->items[v->n++] = value;
}

static ia3_pickle_value *
push(machine *m, ia3_pickle_kind kind)
{
    ia3_pickle_value *v = arena_alloc(m, sizeof *v);
    *v = (ia3_pickle_value){.kind = kind};
    append(&m->stack, v);
    return v;
}

/* Takes the topmost value. NULL after filling err if there is none. */
static ia3_pickle_value *
pop(machine *m)
{
    if (m->stack.n == 0 || m->stack.items[m->stack.n - 1] == NULL) {
        fail(m, "a value is missing");
        return NULL;
    }
    return m->stack.items[--m->stack.n];
}

static ia3_pickle_value *
top(machine *m)
{
    if (m->stack.n == 0 || m->stack.items[m->stack.n - 1] == NULL) {
        fail(m, "a value is missing");
        return NULL;
    }
    return m->stack.items[m->stack.n - 1];
}

/* The place behind the topmost mark, which is removed by the caller; 0 after filling err if there is none. */
static size_t
behind_mark(machine *m)
{
    for (size_t i = m->stack.n; i > 0; i--)
        if (m->stack.items[i - 1] == NULL)
            return i;
    fail(m, "a mark is missing");
    return 0;
}

/* Reads a little-endian number of n bytes. */
static bool
read_number(machine *m, int n, uint64_t *number)
{
    *number = 0;
    if (m->end - m->at < n)
        return truncated(m);
    *number = ia3_little_endian(m->at, n);
    m->at += n;
    return true;
}

static bool
push_string(machine *m, int length_bytes)
{
    uint64_t n;
    if (!read_number(m, length_bytes, &n))
        return false;
    if (n > (uint64_t) (m->end - m->at))
        return truncated(m);
    ia3_pickle_value *v = push(m, IA3_PICKLE_STR);
    v->n = (uint32_t) n;
    v->bytes = (const char *) m->at;
    m->at += n;
    return true;
}

/* A number of up to eight bytes, in two's complement; Python writes longer ones only for very large integers. */
static bool
push_long(machine *m)
{
    uint64_t n, number;
    if (!read_number(m, 1, &n))
        return false;
    if (n > 8)
        return fail(m, "integer is too large");
    if (!read_number(m, (int) n, &number))
        return false;
    if (n > 0 && n < 8 && number >> (8 * n - 1) != 0)
        number |= ~(uint64_t) 0 << (8 * n);
    push(m, IA3_PICKLE_INT)->integer = (int64_t) number;
    return true;
}

static bool
push_float(machine *m)
{
    uint64_t bits = 0;
    if (m->end - m->at < 8)
        return truncated(m);
    for (int i = 0; i < 8; i++) /* big-endian */
        bits = bits << 8 | *m->at++;
    memcpy(&push(m, IA3_PICKLE_FLOAT)->real, &bits, sizeof bits);
    return true;
}

static bool
push_named(machine *m, const char *module, size_t module_len, const char *name, size_t name_len)
{
    for (int i = 0; m->globals[i]; i++) {
        const char *known = m->globals[i];
        if (strlen(known) == module_len + 1 + name_len && memcmp(known, module, module_len) == 0 &&
            known[module_len] == ' ' && memcmp(known + module_len + 1, name, name_len) == 0) {
            push(m, IA3_PICKLE_GLOBAL)->global = i;
            return true;
        }
    }
    return ia3_fail(
        m->err, IA3_E_BAD_CHECKPOINT, "%s: the pickle refers to \"%.*s.%.*s\", which is not allowed", m->what,
        (int) (module_len < 90 ? module_len : 90), module, (int) (name_len < 90 ? name_len : 90), name);
}

/* Two lines: module and name. */
static bool
push_global(machine *m)
{
    const uint8_t *module = m->at;
    const uint8_t *line = memchr(module, '\n', (size_t) (m->end - module));
    const uint8_t *name_end = line ? memchr(line + 1, '\n', (size_t) (m->end - (line + 1))) : NULL;
    if (name_end == NULL)
        return truncated(m);
    m->at = name_end + 1;
    return push_named(m, (const char *) module, (size_t) (line - module), (const char *) line + 1,
                      (size_t) (name_end - (line + 1)));
}

static bool
push_stack_global(machine *m)
{
    ia3_pickle_value *name = pop(m), *module = name ? pop(m) : NULL;
    if (module == NULL)
        return false;
    if (name->kind != IA3_PICKLE_STR || module->kind != IA3_PICKLE_STR)
        return fail(m, "the name of a global is not a string");
    return push_named(m, module->bytes, module->n, name->bytes, name->n);
}

static bool
get_memo(machine *m, int index_bytes)
{
    uint64_t i;
    if (!read_number(m, index_bytes, &i))
        return false;
    if (i >= m->memo.n || m->memo.items[i] == NULL)
        return fail(m, "an unknown value is used");
    append(&m->stack, m->memo.items[i]);
    return true;
}

/* Python numbers the values that it remembers in turn, so a number is never as large as the pickle is long. */
static bool
put_memo(machine *m, uint64_t i)
{
    ia3_pickle_value *v = top(m);
    if (v == NULL)
        return false;
    if (i >= (uint64_t) (m->end - m->data))
        return fail(m, "the number of a value is too large");
    while (m->memo.n <= i)
        append(&m->memo, NULL);
    m->memo.items[i] = v;
    return true;
}

static bool
put_numbered(machine *m, int index_bytes)
{
    uint64_t i;
    return read_number(m, index_bytes, &i) && put_memo(m, i);
}

/* Makes a tuple of the topmost n values. */
static bool
push_tuple(machine *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (i >= m->stack.n || m->stack.items[m->stack.n - 1 - i] == NULL)
            return fail(m, "a value is missing");
    ia3_pickle_value **items = n > 0 ? arena_alloc(m, n * sizeof *items) : NULL;
    m->stack.n -= n;
    if (n > 0)
        memcpy(items, m->stack.items + m->stack.n, n * sizeof *items);
    ia3_pickle_value *v = push(m, IA3_PICKLE_TUPLE);
    v->n = v->room = (uint32_t) n;
    v->items = items;
    return true;
}

static bool
push_marked_tuple(machine *m)
{
    size_t from = behind_mark(m);
    if (from == 0)
        return false;
    /* the mark is removed by moving what is above it */
    size_t n = m->stack.n - from;
    memmove(m->stack.items + from - 1, m->stack.items + from, n * sizeof *m->stack.items);
    m->stack.n--;
    return push_tuple(m, n);
}

/* Adds n values to a list or dictionary. */
static void
add_items(machine *m, ia3_pickle_value *to, ia3_pickle_value *const *items, size_t n)
{
    size_t each = to->kind == IA3_PICKLE_DICT ? 2 : 1, have = to->n * each;
    if (to->room < have + n) {
        size_t room = 2 * (have + n);
        ia3_pickle_value **more = arena_alloc(m, room * sizeof *more);
        if (have > 0)
            memcpy(more, to->items, have * sizeof *more);
        to->items = more;
        to->room = (uint32_t) room;
    }
    if (n > 0)
        memcpy(to->items + have, items, n * sizeof *items);
    to->n += (uint32_t) (n / each);
}

/* Adds the values from stack[from] on to what is below them (and below the mark, if `marked`). */
static bool
add_from(machine *m, size_t from, bool marked, ia3_pickle_kind kind)
{
    size_t below = from - marked, n = m->stack.n - from;
    ia3_pickle_value *to = below > 0 ? m->stack.items[below - 1] : NULL;
    if (to == NULL || to->kind != kind || (kind == IA3_PICKLE_DICT && n % 2 != 0))
        return fail(m, kind == IA3_PICKLE_DICT ? "entries do not belong to a dictionary"
                                               : "items do not belong to a list");
    add_items(m, to, m->stack.items + from, n);
    m->stack.n = below;
    return true;
}

static bool
add_one(machine *m, size_t n, ia3_pickle_kind kind)
{
    for (size_t i = 0; i < n; i++)
        if (i >= m->stack.n || m->stack.items[m->stack.n - 1 - i] == NULL)
            return fail(m, "a value is missing");
    return add_from(m, m->stack.n - n, false, kind);
}

static bool
add_marked(machine *m, ia3_pickle_kind kind)
{
    size_t from = behind_mark(m);
    return from > 0 && add_from(m, from, true, kind);
}

/* An OrderedDict becomes a dictionary; any other call stays what it is. */
static bool
reduce(machine *m)
{
    ia3_pickle_value *arguments = pop(m), *callee = arguments ? pop(m) : NULL;
    if (callee == NULL)
        return false;
    if (callee->kind != IA3_PICKLE_GLOBAL || arguments->kind != IA3_PICKLE_TUPLE)
        return fail(m, "something that is not a function is called");
    if (strcmp(m->globals[callee->global], "collections OrderedDict") == 0) {
        if (arguments->n > 0)
            return fail(m, "an OrderedDict has arguments");
        push(m, IA3_PICKLE_DICT);
        return true;
    }
    ia3_pickle_value **items = arena_alloc(m, 2 * sizeof *items);
    items[0] = callee;
    items[1] = arguments;
    ia3_pickle_value *v = push(m, IA3_PICKLE_CALL);
    v->items = items;
    return true;
}

/* Only dictionaries have a state, which is the versions of the modules (_metadata), and is ignored. */
static bool
build(machine *m)
{
    ia3_pickle_value *state = pop(m), *object = state ? top(m) : NULL;
    if (object == NULL)
        return false;
    return object->kind == IA3_PICKLE_DICT || fail(m, "something other than a dictionary has a state");
}

static bool
push_persistent(machine *m)
{
    ia3_pickle_value *id = pop(m);
    if (id == NULL)
        return false;
    ia3_pickle_value **items = arena_alloc(m, sizeof *items);
    items[0] = id;
    ia3_pickle_value *v = push(m, IA3_PICKLE_PERSISTENT);
    v->items = items;
    return true;
}

static bool
push_int(machine *m, int n)
{
    uint64_t number;
    if (!read_number(m, n, &number))
        return false;
    push(m, IA3_PICKLE_INT)->integer = n == 4 ? (int32_t) (uint32_t) number : (int64_t) number;
    return true;
}

static bool
read_protocol(machine *m)
{
    uint64_t protocol;
    return read_number(m, 1, &protocol) &&
           ((protocol >= 2 && protocol <= 5) || fail(m, "the protocol is not one of 2 to 5"));
}

static bool
unknown(machine *m, int op)
{
    char text[64];
    if (op > 0x20 && op < 0x7f)
        snprintf(text, sizeof text, "instruction \"%c\" is not allowed", op);
    else
        snprintf(text, sizeof text, "instruction 0x%02x is not allowed", (unsigned) op);
    return fail(m, text);
}

/* The instructions that push values or build containers. */
static bool
step_values(machine *m, int op)
{
    switch (op) {
    case OP_NONE:
        push(m, IA3_PICKLE_NONE);
        return true;
    case OP_NEWTRUE:
        push(m, IA3_PICKLE_BOOL)->integer = 1;
        return true;
    case OP_NEWFALSE:
        push(m, IA3_PICKLE_BOOL);
        return true;
    case OP_BININT:
        return push_int(m, 4);
    case OP_BININT1:
        return push_int(m, 1);
    case OP_BININT2:
        return push_int(m, 2);
    case OP_LONG1:
        return push_long(m);
    case OP_BINFLOAT:
        return push_float(m);
    case OP_BINSTRING:
    case OP_BINUNICODE:
        return push_string(m, 4);
    case OP_SHORT_BINSTRING:
    case OP_SHORT_BINUNICODE:
        return push_string(m, 1);
    case OP_EMPTY_TUPLE:
        return push_tuple(m, 0);
    case OP_TUPLE1:
        return push_tuple(m, 1);
    case OP_TUPLE2:
        return push_tuple(m, 2);
    case OP_TUPLE3:
        return push_tuple(m, 3);
    case OP_TUPLE:
        return push_marked_tuple(m);
    case OP_EMPTY_LIST:
        push(m, IA3_PICKLE_LIST);
        return true;
    case OP_EMPTY_DICT:
        push(m, IA3_PICKLE_DICT);
        return true;
    default:
        return unknown(m, op);
    }
}

static bool
step(machine *m, int op)
{
    uint64_t ignored;
    switch (op) {
    case OP_PROTO:
        return read_protocol(m);
    case OP_FRAME:
        return read_number(m, 8, &ignored);
    case OP_MARK:
        append(&m->stack, NULL);
        return true;
    case OP_APPEND:
        return add_one(m, 1, IA3_PICKLE_LIST);
    case OP_APPENDS:
        return add_marked(m, IA3_PICKLE_LIST);
    case OP_SETITEM:
        return add_one(m, 2, IA3_PICKLE_DICT);
    case OP_SETITEMS:
        return add_marked(m, IA3_PICKLE_DICT);
    case OP_GLOBAL:
        return push_global(m);
    case OP_STACK_GLOBAL:
        return push_stack_global(m);
    case OP_REDUCE:
        return reduce(m);
    case OP_BUILD:
        return build(m);
    case OP_BINPERSID:
        return push_persistent(m);
    case OP_BINGET:
        return get_memo(m, 1);
    case OP_LONG_BINGET:
        return get_memo(m, 4);
    case OP_BINPUT:
        return put_numbered(m, 1);
    case OP_LONG_BINPUT:
        return put_numbered(m, 4);
    case OP_MEMOIZE:
        return put_memo(m, m->memo.n);
    default:
        return step_values(m, op);
    }
}

static bool
run(machine *m)
{
    while (m->at < m->end) {
        int op = *m->at++;
        if (op == OP_STOP) {
            m->pickle->root = pop(m);
            return m->pickle->root != NULL;
        }
        if (!step(m, op))
            return false;
    }
    return truncated(m);
}

ia3_pickle *
ia3_pickle_parse(const uint8_t *data, size_t len, const char *const *globals, const char *what, size_t *used,
                 ia3_error *err)
{
    ia3_pickle *p = ia3_alloc(sizeof *p);
    machine m = {.pickle = p,
                 .data = data,
                 .at = data,
                 .end = data + len,
                 .globals = globals,
                 .what = what,
                 .err = err};
    bool ok = run(&m);
    *used = (size_t) (m.at - data);
    free(m.stack.items);
    free(m.memo.items);
    if (ok)
        return p;
    ia3_pickle_free(p);
    return NULL;
}

const ia3_pickle_value *
ia3_pickle_root(const ia3_pickle *p)
{
    return p->root;
}

void
ia3_pickle_free(ia3_pickle *p)
{
    if (p == NULL)
        return;
    for (block *b = p->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(p);
}
