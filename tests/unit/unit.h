/* unit: what every cmocka test includes first. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

/* cmocka.h wants these four before it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/base/rt.h"

/* Asserts that a call succeeded, printing the error's message when it did not. */
#define assert_rc(rc, err)                                                                         \
	do {                                                                                       \
		if ((rc) < 0)                                                                      \
			fail_msg("%s", (err).msg);                                                 \
	} while (0)

/* Asserts that err's message contains text. */
#define assert_says(err, text)                                                                     \
	do {                                                                                       \
		if (strstr((err).msg, (text)) == NULL)                                             \
			fail_msg("\"%s\" does not say \"%s\"", (err).msg, (text));                 \
	} while (0)

#endif
