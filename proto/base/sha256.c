/* sha256: the compression function over blocks of 64 bytes. Guarantees: no allocation, any length. */
#include "proto/base/sha256.h"

#include "proto/base/buf.h"

static const uint32_t k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2};

static inline uint32_t ror(uint32_t v, int n)
{
	return v >> n | v << (32 - n);
}

/* One round; instead of the variables moving on, the next round is given them in other places. */
static inline void turn(const uint32_t *v, uint32_t *d, uint32_t *h, uint32_t round)
{
	const uint32_t a = v[0], b = v[1], c = v[2], e = v[3], f = v[4], g = v[5];
	uint32_t t1 = *h + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + round;
	*d += t1;
	*h = t1 + (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
}

#define TURN(a, b, c, d, e, f, g, h, i)                                                            \
	turn((const uint32_t[]){a, b, c, e, f, g}, &(d), &(h), k[i] + w[i])

static void take_block(struct sha256 *s, const uint8_t *p)
{
	uint32_t w[64];
	uint32_t a = s->state[0], b = s->state[1], c = s->state[2], d = s->state[3];
	uint32_t e = s->state[4], f = s->state[5], g = s->state[6], h = s->state[7];
	for (size_t i = 0; i < 16; i++)
		w[i] = be32_get(p + 4 * i);
	for (size_t i = 16; i < 64; i++) {
		uint32_t x = w[i - 15], y = w[i - 2];
		w[i] = w[i - 16] + (ror(x, 7) ^ ror(x, 18) ^ x >> 3) + w[i - 7] +
		       (ror(y, 17) ^ ror(y, 19) ^ y >> 10);
	}
	for (size_t i = 0; i < 64; i += 8) {
		TURN(a, b, c, d, e, f, g, h, i);
		TURN(h, a, b, c, d, e, f, g, i + 1);
		TURN(g, h, a, b, c, d, e, f, i + 2);
		TURN(f, g, h, a, b, c, d, e, i + 3);
		TURN(e, f, g, h, a, b, c, d, i + 4);
		TURN(d, e, f, g, h, a, b, c, i + 5);
		TURN(c, d, e, f, g, h, a, b, i + 6);
		TURN(b, c, d, e, f, g, h, a, i + 7);
	}
	const uint32_t after[8] = {a, b, c, d, e, f, g, h};
	for (size_t i = 0; i < 8; i++)
		s->state[i] += after[i];
}

void sha256_init(struct sha256 *s)
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
					  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	memcpy(s->state, start, sizeof(start));
	s->bytes = 0;
}

void sha256_add(struct sha256 *s, const void *p, size_t bytes)
{
	const uint8_t *at = p;
	size_t have = s->bytes % sizeof(s->block);
	s->bytes += bytes;
	if (have > 0) {
		size_t n = RT_MIN(bytes, sizeof(s->block) - have);
		memcpy(s->block + have, at, n);
		at += n;
		bytes -= n;
		if (have + n < sizeof(s->block))
			return;
		take_block(s, s->block);
	}
	for (; bytes >= sizeof(s->block); bytes -= sizeof(s->block), at += sizeof(s->block))
		take_block(s, at);
	if (bytes > 0)
		memcpy(s->block, at, bytes);
}

void sha256_end(struct sha256 *s, uint8_t ret[SHA256_BYTES])
{
	static const uint8_t pad[64] = {0x80};
	uint8_t length[8];
	be64_put(length, s->bytes * 8);
	size_t have = s->bytes % sizeof(s->block);
	sha256_add(s, pad, (have < 56 ? 56 : 120) - have);
	sha256_add(s, length, sizeof(length));
	for (size_t i = 0; i < 8; i++)
		be32_put(ret + 4 * i, s->state[i]);
}

void sha256_end_hex(struct sha256 *s, char ret[SHA256_HEX])
{
	uint8_t digest[SHA256_BYTES];
	sha256_end(s, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(ret + 2 * i, 3, "%02x", digest[i]);
}

void sha256_hex(struct slice bytes, char ret[SHA256_HEX])
{
	struct sha256 s;
	sha256_init(&s);
	sha256_add(&s, bytes.p, bytes.len);
	sha256_end_hex(&s, ret);
}
