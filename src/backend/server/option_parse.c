/*
 * option_parse.c
 *	  What the values of options look like.
 *
 * Every parser names the option and the way out when it refuses a value.
 */
#include "postgres.h"

#include "server/option_parse.h"

#include <ctype.h>
#include <math.h>

#include "utils/builtins.h"

#define DEFAULT_PORT		"2379"
#define MAX_TIMEOUT_SECONDS 86400
#define MAX_MILLISECONDS	(MAX_TIMEOUT_SECONDS * 1000)
#define MAX_RETRIES			1000
#define MAX_POSITIVE		100000

/* Of a request to etcd: room for one key, and what a frame to the proxy holds. */
#define MIN_BYTES		10000
#define MAX_BYTES		(256 * 1024 * 1024)

static void
invalid_value(const char *name, const char *value, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errhint("%s", hint)));
}

/*
 * Milliseconds of a time in seconds, which may have a fraction.
 */
static int
parse_seconds(const char *name, const char *value)
{
	char	   *end;
	double		seconds;

	errno = 0;
	seconds = strtod(value, &end);
	while (*end == ' ')
		end++;
	if (*value == '\0' || *end != '\0' || errno != 0 || isnan(seconds) ||
		seconds < 0.001 || seconds > MAX_TIMEOUT_SECONDS)
		invalid_value(name, value, psprintf("Give a time in seconds, from 0.001 to %d.", MAX_TIMEOUT_SECONDS));
	return (int) (seconds * 1000 + 0.5);
}

static int
parse_integer(const char *name, const char *value, int min, int max, const char *what)
{
	char	   *end;
	long		number;

	errno = 0;
	number = strtol(value, &end, 10);
	if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || number < min || number > max)
		invalid_value(name, value, psprintf("Give %s, from %d to %d.", what, min, max));
	return (int) number;
}

/*
 * The value of an option that is a number; times come as milliseconds.
 */
int
option_parse_number(const char *name, OptionKind kind, const char *value)
{
	switch (kind)
	{
		case KIND_SECONDS:
			return parse_seconds(name, value);
		case KIND_MILLISECONDS:
			/* A pause may be none; a time limit of none would let nothing happen. */
			return parse_integer(name, value, strcmp(name, "retry_backoff_ms") == 0 ? 0 : 1,
								 MAX_MILLISECONDS, "a time in milliseconds");
		case KIND_PERIOD:
			return parse_integer(name, value, 0, MAX_MILLISECONDS / 1000, "a time in seconds, 0 for never");
		case KIND_POSITIVE:
			return parse_integer(name, value, 1, MAX_POSITIVE, "a number");
		case KIND_BYTES:
			return parse_integer(name, value, MIN_BYTES, MAX_BYTES, "a number of bytes");
		default:
			return parse_integer(name, value, 0, MAX_RETRIES, "a number");
	}
}

/*
 * Takes the scheme off an endpoint, which must not contradict those before.
 */
static char *
parse_scheme(const char *name, char *text, const char *whole, EndpointScheme *scheme)
{
	EndpointScheme own = SCHEME_NONE;

	if (pg_strncasecmp(text, "https://", 8) == 0)
		own = SCHEME_HTTPS;
	else if (pg_strncasecmp(text, "http://", 7) == 0)
		own = SCHEME_HTTP;
	if (own == SCHEME_NONE)
		return text;
	if (*scheme != SCHEME_NONE && *scheme != own)
		invalid_value(name, whole, "All endpoints of a server use TLS, or none does: give https:// or http:// for all of them.");
	*scheme = own;
	return text + (own == SCHEME_HTTPS ? 8 : 7);
}

/*
 * One endpoint as host:port.  A URL is what etcdctl takes, so it is taken
 * here; a missing port is etcd's own.
 */
static char *
parse_endpoint(const char *name, char *text, const char *whole, EndpointScheme *scheme)
{
	const char *hint = "Give a list of host:port or of URLs, separated by commas.";
	char	   *colon;
	long		port;
	char	   *end;

	while (*text == ' ')
		text++;
	for (char *last = text + strlen(text); last > text && (last[-1] == ' ' || last[-1] == '/'); last--)
		last[-1] = '\0';
	text = parse_scheme(name, text, whole, scheme);
	if (*text == '\0')
		invalid_value(name, whole, hint);
	/* Of a name, an address or a port; names in other scripts have bytes beyond ASCII. */
	for (const char *at = text; *at != '\0'; at++)
	{
		if (!isalnum((unsigned char) *at) && !IS_HIGHBIT_SET(*at) && strchr("-._:[]%", *at) == NULL)
			invalid_value(name, whole, hint);
	}

	/* An IPv6 address has colons of its own and stands in brackets. */
	colon = strrchr(text, ':');
	if (*text == '[')
	{
		char	   *bracket = strchr(text, ']');

		if (bracket == NULL || bracket == text + 1 || (bracket[1] != '\0' && bracket[1] != ':'))
			invalid_value(name, whole, "An IPv6 address stands in brackets, as in [::1]:2379.");
		if (colon != NULL && colon < bracket)
			colon = NULL;
	}
	else if (colon != NULL && strchr(text, ':') != colon)
		invalid_value(name, whole, "An IPv6 address stands in brackets, as in [::1]:2379.");

	if (colon == NULL)
		return psprintf("%s:%s", text, DEFAULT_PORT);
	errno = 0;
	port = strtol(colon + 1, &end, 10);
	if (colon == text || colon[1] < '0' || colon[1] > '9' || *end != '\0' || errno != 0 || port < 1 || port > 65535)
		invalid_value(name, whole, hint);
	return pstrdup(text);
}

/*
 * A list of char *, "host:port", and whether the list is of URLs.
 */
List *
option_parse_endpoints(const char *name, const char *value, EndpointScheme *scheme)
{
	List	   *result = NIL;
	char	   *rest = pstrdup(value);

	*scheme = SCHEME_NONE;
	for (;;)
	{
		char	   *comma = strchr(rest, ',');

		if (comma != NULL)
			*comma = '\0';
		result = lappend(result, parse_endpoint(name, rest, value, scheme));
		if (comma == NULL)
			return result;
		rest = comma + 1;
	}
}

static void
check_revision(const char *name, const char *value)
{
	char	   *end;
	long long	revision;

	errno = 0;
	revision = strtoll(value, &end, 10);
	if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || revision < 0)
		invalid_value(name, value, "Give a revision of etcd's store, or 0 for the latest.");
}

static void
invalid_pattern(const char *name, const char *value, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errdetail_internal("%s", detail),
			 errhint("A pattern is a key with placeholders, as in /registry/{kind}/{namespace}/{name}.")));
}

/*
 * A pattern as src/core/plan/pattern.ts reads it.
 */
static void
check_pattern(const char *name, const char *value)
{
	List	   *names = NIL;
	bool		rest = false;

	for (const char *at = value;;)
	{
		const char *open = at + strcspn(at, "{}");
		const char *close;
		char	   *placeholder;
		ListCell   *lc;

		if (*open == '\0')
			break;
		close = *open == '{' ? open + 1 + strcspn(open + 1, "{}") : open;
		if (*open == '}' || *close != '}')
			invalid_pattern(name, value, "A brace has no counterpart.");
		if (rest)
			invalid_pattern(name, value, "A placeholder with * must be the last one.");
		if (open == at && names != NIL)
			invalid_pattern(name, value, "Two placeholders need text between them.");
		placeholder = pnstrdup(open + 1, close - open - 1);
		rest = close > open + 1 && close[-1] == '*';
		if (rest)
			placeholder[strlen(placeholder) - 1] = '\0';
		if (*placeholder == '\0')
			invalid_pattern(name, value, "A placeholder has no name.");
		foreach(lc, names)
		{
			if (strcmp(lfirst(lc), placeholder) == 0)
				invalid_pattern(name, value, psprintf("\"%s\" stands there twice.", placeholder));
		}
		names = lappend(names, placeholder);
		at = close + 1;
	}
	if (names == NIL)
		invalid_pattern(name, value, "It has no placeholder.");
}

/*
 * A path as src/core/plan/columns.ts reads it: no step is empty.
 */
static void
check_path(const char *name, const char *value)
{
	int			len = 0;		/* of the step */

	for (const char *at = value;; at++)
	{
		if (*at == '\\' && at[1] != '\0')
			at++;
		else if (*at == '.' || *at == '\0')
		{
			if (len == 0)
				invalid_value(name, value, "A path is names or array indexes with dots between them, as in spec.replicas.");
			if (*at == '\0')
				return;
			len = 0;
			continue;
		}
		len++;
	}
}

bool
option_parse_consistency(const char *value, const char **canonical)
{
	if (pg_strcasecmp(value, "l") == 0 || pg_strcasecmp(value, "linearizable") == 0)
		*canonical = "l";
	else if (pg_strcasecmp(value, "s") == 0 || pg_strcasecmp(value, "serializable") == 0)
		*canonical = "s";
	else
		return false;
	return true;
}

/*
 * Raises 22023 unless the value is one of its kind.
 */
void
option_check_value(const char *name, OptionKind kind, const char *value)
{
	EndpointScheme scheme;
	const char *canonical;
	bool		flag;

	switch (kind)
	{
		case KIND_TEXT:
			break;
		case KIND_NONEMPTY:
		case KIND_FILE:
			if (*value == '\0')
				invalid_value(name, value, "The value must not be empty.");
			break;
		case KIND_PATTERN:
			check_pattern(name, value);
			break;
		case KIND_PATH:
			check_path(name, value);
			break;
		case KIND_BOOL:
			if (!parse_bool(value, &flag))
				invalid_value(name, value, "Give true or false.");
			break;
		case KIND_ENDPOINTS:
			(void) option_parse_endpoints(name, value, &scheme);
			break;
		case KIND_SECONDS:
		case KIND_MILLISECONDS:
		case KIND_COUNT:
		case KIND_POSITIVE:
		case KIND_PERIOD:
		case KIND_BYTES:
			(void) option_parse_number(name, kind, value);
			break;
		case KIND_REVISION:
			check_revision(name, value);
			break;
		case KIND_CONSISTENCY:
			if (!option_parse_consistency(value, &canonical))
				invalid_value(name, value, "Give \"l\" for linearizable reads or \"s\" for serializable ones.");
			break;
		case KIND_ROWID:
			if (strcmp(value, "key") != 0)
				invalid_value(name, value, "Rows of etcd are identified by their key: give \"key\".");
			break;
		case KIND_ATOMIC:
			if (strcmp(value, "split") != 0 && strcmp(value, "require") != 0)
				invalid_value(name, value, "Give \"split\" or \"require\".");
			break;
		case KIND_WRITE_MODE:
			if (strcmp(value, "transactional") != 0 && strcmp(value, "immediate") != 0)
				invalid_value(name, value, "Give \"transactional\" or \"immediate\".");
			break;
		case KIND_MISMATCH:
			if (strcmp(value, "skip") != 0 && strcmp(value, "error") != 0)
				invalid_value(name, value, "Give \"skip\" or \"error\".");
			break;
	}
}
