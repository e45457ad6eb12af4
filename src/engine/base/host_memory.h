/*
 * host_memory.h
 *     How much memory this process may use at most.
 */
#ifndef IA3_HOST_MEMORY_H
#define IA3_HOST_MEMORY_H

#include <stddef.h>

/*
 * The machine's memory in bytes, or the smallest limit that a control group of this process has (version 1 or 2, its own
 * group or one above), if that is less. 0 if nothing can be found out. `root` is prepended to the paths of all files; it is
 * "" except in tests.
 */
size_t ia3_host_memory(const char *root);

#endif
