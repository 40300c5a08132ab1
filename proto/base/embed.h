/* embed: files of the repository as texts of the program; Makefile says which object they are part of. */
#ifndef PROTO_BASE_EMBED_H
#define PROTO_BASE_EMBED_H

#include "proto/base/rt.h"

/* The file's bytes and a NUL, as a symbol of the program. */
#define EMBED(symbol, path)                                                                        \
	__asm__(".pushsection .rodata\n.globl " #symbol "\n.hidden " #symbol "\n" #symbol          \
		":\n.incbin \"" path "\"\n.byte 0\n.popsection");                                  \
	/* NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration */                            \
	extern const char symbol[]

#endif
