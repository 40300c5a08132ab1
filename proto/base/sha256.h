/* sha256: FIPS 180-4, for checksums that others verify with `sha256sum -c`. */
#ifndef PROTO_BASE_SHA256_H
#define PROTO_BASE_SHA256_H

#include "proto/base/rt.h"

#define SHA256_BYTES 32
#define SHA256_HEX   65 /* digits and a NUL */

struct sha256 {
	uint32_t state[8];
	uint64_t bytes;
	uint8_t block[64];
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *p, size_t bytes);
/* The digest of everything added; s must be initialised before it is used again. */
void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES]);
/* The same in lower-case hexadecimal. */
void sha256_end_hex(struct sha256 *s, char ret[SHA256_HEX]);
/* Of bytes in memory. */
void sha256_hex(struct slice bytes, char ret[SHA256_HEX]);

#endif
