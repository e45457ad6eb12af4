/*
 * int8_forms.h
 *     The forms of the eight-bit kernel for x86-64, which int8_x86.c defines and int8_forms.c lists.
 */
#ifndef IA3_CPU_INT8_FORMS_H
#define IA3_CPU_INT8_FORMS_H

#include "int8.h"

#if defined(__x86_64__)
extern const ia3_int8_form ia3_int8_avx512vnni;
extern const ia3_int8_form ia3_int8_avx512;
extern const ia3_int8_form ia3_int8_avxvnni; /* 256 bits */
extern const ia3_int8_form ia3_int8_avx2;
#endif

#endif
