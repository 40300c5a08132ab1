/* address: parsing and listening. */
#include "apply/reports/http/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <unistd.h>

#define BACKLOG 128

static int bad(const char *text, struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT,
		       "http.listen must be PORT, ADDRESS:PORT or [ADDRESS]:PORT, in numbers, not "
		       "%.80s",
		       text);
}

static bool read_port(const char *text, in_port_t *ret)
{
	size_t digits = strspn(text, "0123456789");
	long port = digits > 0 && digits <= 5 ? strtol(text, NULL, 10) : 0;
	*ret = htons((uint16_t)port);
	return text[digits] == '\0' && port >= 1 && port <= 65535;
}

int http_address_parse(const char *text, struct http_address *ret, struct rt_err *err)
{
	char host[INET6_ADDRSTRLEN] = "127.0.0.1";
	struct http_address a = {0};
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a.at;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a.at;
	const char *colon = strrchr(text, ':'), *port = colon != NULL ? colon + 1 : text;
	in_port_t number;
	const bool bracket = text[0] == '[';
	if (colon != NULL) {
		size_t len = (size_t)(colon - text);
		if (bracket && (len < 2 || text[len - 1] != ']'))
			return bad(text, err);
		len -= bracket ? 2 : 0;
		if (len >= sizeof(host))
			return bad(text, err);
		memcpy(host, text + bracket, len);
		host[len] = '\0';
	}
	if (!read_port(port, &number))
		return bad(text, err);
	if (!bracket && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = number;
		a.len = sizeof(*v4);
		a.loopback = ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	} else if (bracket && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = number;
		a.len = sizeof(*v6);
		a.loopback = IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
	} else {
		return bad(text, err);
	}
	*ret = a;
	return 0;
}

int http_address_listen(const struct http_address *a, const char *text, int *ret_fd,
			struct rt_err *err)
{
	const int yes = 1;
	int fd = socket(a->at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "no socket for http.listen");
	/* A predecessor's connections may linger; the port itself is taken or it is not. */
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (a->at.ss_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
	if (bind(fd, (const struct sockaddr *)&a->at, a->len) != 0 || listen(fd, BACKLOG) != 0) {
		/* In use: by a predecessor that is about to end, perhaps. */
		enum rt_code code = errno == EADDRINUSE ? ERR_SYSTEM : ERR_PERMANENT;
		(void)rt_fail_errno(err, code, "cannot listen on %s (http.listen)", text);
		close(fd);
		return code;
	}
	*ret_fd = fd;
	return 0;
}
