/*
 * selection.c
 *     Lets the environment select tests of any test program: IA3_TEST_FILTER runs those whose names match a pattern,
 *     IA3_TEST_SKIP leaves some out ("*" and "?" are wild).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

__attribute__((constructor)) static void
select_tests(void)
{
    cmocka_set_test_filter(getenv("IA3_TEST_FILTER"));
    cmocka_set_skip_filter(getenv("IA3_TEST_SKIP"));
}
