/*
 * version.h
 *     The version of ia3: of the library and of the engine, which come from one installation.
 */
#ifndef IA3_COMMON_VERSION_H
#define IA3_COMMON_VERSION_H

#define IA3_VERSION "1.0"

#endif
