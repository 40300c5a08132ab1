/* address: where HTTP is served, as http.listen says it. */
#ifndef APPLY_REPORTS_HTTP_ADDRESS_H
#define APPLY_REPORTS_HTTP_ADDRESS_H

#include <sys/socket.h>

#include "proto/base/rt.h"

struct http_address {
	struct sockaddr_storage at;
	socklen_t len;
	bool loopback; /* nobody but this machine gets there */
};

/*
 * PORT (of 127.0.0.1), ADDRESS:PORT or [ADDRESS]:PORT, numbers alone: a name could
 * be anybody's. ERR_PERMANENT, naming the key, for anything else.
 */
int http_address_parse(const char *text, struct http_address *ret, struct rt_err *err) RT_MUSTCHECK;
/* A socket that listens there. ERR_PERMANENT where that can only be mended by a person, else ERR_SYSTEM. */
int http_address_listen(const struct http_address *a, const char *text, int *ret_fd,
			struct rt_err *err) RT_MUSTCHECK;

#endif
