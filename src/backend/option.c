/*
 * option.c
 *	  Options of servers, user mappings and foreign tables.
 *
 * One table names every option, where it belongs and what its value must look
 * like.  A value is checked here when it is set; what it means for a request
 * is core's business (src/core/options.ts).  Connection options and passwords
 * are read here and never reach core.
 */
#include "postgres.h"

#include "etcd_fdw.h"

#include <math.h>

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"

#define DEFAULT_ENDPOINT		"127.0.0.1:2379"
#define DEFAULT_PORT			"2379"
#define DEFAULT_CONNECT_TIMEOUT 10000
#define DEFAULT_REQUEST_TIMEOUT 30000
#define MAX_TIMEOUT_SECONDS		86400

typedef enum OptionKind
{
	KIND_TEXT,
	KIND_NONEMPTY,
	KIND_BOOL,
	KIND_ENDPOINTS,
	KIND_SECONDS,
	KIND_REVISION,
	KIND_CONSISTENCY,
	KIND_ROWID,
	KIND_MISMATCH
} OptionKind;

typedef struct OptionDef
{
	const char *name;
	Oid			context;		/* catalog of the object it belongs to */
	OptionKind	kind;
} OptionDef;

static const OptionDef option_defs[] = {
	{"connstr", ForeignServerRelationId, KIND_ENDPOINTS},
	{"endpoints", ForeignServerRelationId, KIND_ENDPOINTS},
	{"connect_timeout", ForeignServerRelationId, KIND_SECONDS},
	{"request_timeout", ForeignServerRelationId, KIND_SECONDS},
	{"username", UserMappingRelationId, KIND_NONEMPTY},
	{"password", UserMappingRelationId, KIND_TEXT},
	{"prefix", ForeignTableRelationId, KIND_TEXT},
	{"strip_prefix", ForeignTableRelationId, KIND_BOOL},
	{"rowid_column", ForeignTableRelationId, KIND_ROWID},
	{"keys_only", ForeignTableRelationId, KIND_BOOL},
	{"revision", ForeignTableRelationId, KIND_REVISION},
	{"consistency", ForeignTableRelationId, KIND_CONSISTENCY},
	{"key", ForeignTableRelationId, KIND_NONEMPTY},
	{"range_end", ForeignTableRelationId, KIND_NONEMPTY},
	{"key_pattern", ForeignTableRelationId, KIND_NONEMPTY},
	{"key_mismatch", ForeignTableRelationId, KIND_MISMATCH},
	{"use_remote_estimate", ForeignServerRelationId, KIND_BOOL},
	{"use_remote_estimate", ForeignTableRelationId, KIND_BOOL},
	{"json", AttributeRelationId, KIND_NONEMPTY},
};

PG_FUNCTION_INFO_V1(etcd_fdw_validator);

static const OptionDef *
find_option_def(const char *name, Oid context)
{
	for (int i = 0; i < (int) lengthof(option_defs); i++)
	{
		if (option_defs[i].context == context && strcmp(option_defs[i].name, name) == 0)
			return &option_defs[i];
	}
	return NULL;
}

static void
unknown_option(const char *name, Oid context)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < (int) lengthof(option_defs); i++)
	{
		if (option_defs[i].context == context)
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", option_defs[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 valid.len > 0
			 ? errhint("Valid options in this context are: %s.", valid.data)
			 : errhint("There are no valid options in this context.")));
}

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

/*
 * One endpoint as host:port.  An http:// in front is what etcdctl takes, so it
 * is taken here; a missing port is etcd's own.
 */
static char *
parse_endpoint(const char *name, char *text, const char *whole)
{
	const char *hint = "Give a list of host:port, separated by commas.";
	char	   *colon;
	long		port;
	char	   *end;

	while (*text == ' ')
		text++;
	for (char *last = text + strlen(text); last > text && (last[-1] == ' ' || last[-1] == '/'); last--)
		last[-1] = '\0';
	if (pg_strncasecmp(text, "https://", 8) == 0)
		invalid_value(name, whole, "This version of etcd_fdw connects without TLS only.");
	if (pg_strncasecmp(text, "http://", 7) == 0)
		text += 7;
	if (*text == '\0' || strpbrk(text, " /@\"") != NULL)
		invalid_value(name, whole, hint);

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

static List *
parse_endpoints(const char *name, const char *value)
{
	List	   *result = NIL;
	char	   *rest = pstrdup(value);

	for (;;)
	{
		char	   *comma = strchr(rest, ',');

		if (comma != NULL)
			*comma = '\0';
		result = lappend(result, parse_endpoint(name, rest, value));
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

static bool
parse_consistency(const char *value, const char **canonical)
{
	if (pg_strcasecmp(value, "l") == 0 || pg_strcasecmp(value, "linearizable") == 0)
		*canonical = "l";
	else if (pg_strcasecmp(value, "s") == 0 || pg_strcasecmp(value, "serializable") == 0)
		*canonical = "s";
	else
		return false;
	return true;
}

static void
check_value(const OptionDef *def, DefElem *elem)
{
	char	   *value = defGetString(elem);
	const char *canonical;
	bool		flag;

	switch (def->kind)
	{
		case KIND_TEXT:
			break;
		case KIND_NONEMPTY:
			if (*value == '\0')
				invalid_value(def->name, value, "The value must not be empty.");
			break;
		case KIND_BOOL:
			if (!parse_bool(value, &flag))
				invalid_value(def->name, value, "Give true or false.");
			break;
		case KIND_ENDPOINTS:
			(void) parse_endpoints(def->name, value);
			break;
		case KIND_SECONDS:
			(void) parse_seconds(def->name, value);
			break;
		case KIND_REVISION:
			check_revision(def->name, value);
			break;
		case KIND_CONSISTENCY:
			if (!parse_consistency(value, &canonical))
				invalid_value(def->name, value, "Give \"l\" for linearizable reads or \"s\" for serializable ones.");
			break;
		case KIND_ROWID:
			if (strcmp(value, "key") != 0)
				invalid_value(def->name, value, "Rows of etcd are identified by their key: give \"key\".");
			break;
		case KIND_MISMATCH:
			if (strcmp(value, "skip") != 0 && strcmp(value, "error") != 0)
				invalid_value(def->name, value, "Give \"skip\" or \"error\".");
			break;
	}
}

static char *
get_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);

		if (strcmp(elem->defname, name) == 0)
			return defGetString(elem);
	}
	return NULL;
}

/*
 * Checks the options of one object, as they will stand after the command.
 */
Datum
etcd_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			context = PG_GETARG_OID(1);
	ListCell   *lc;
	char	   *key;
	char	   *range_end;

	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const OptionDef *def = find_option_def(elem->defname, context);

		if (def == NULL)
			unknown_option(elem->defname, context);
		check_value(def, elem);
	}

	if (get_option(options, "connstr") && get_option(options, "endpoints"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"connstr\" and \"endpoints\" cannot both be given"),
				 errhint("They are two names of one option: drop one of them.")));
	key = get_option(options, "key");
	range_end = get_option(options, "range_end");
	if (range_end != NULL && key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"range_end\" needs option \"key\""),
				 errhint("A range holds the keys from key up to, but not including, range_end.")));
	if (range_end != NULL && strcmp(range_end, "\\0") != 0 && strcmp(key, "\\0") != 0 &&
		strcmp(key, range_end) >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"range_end\" (\"%s\") does not sort after option \"key\" (\"%s\")", range_end, key),
				 errhint("A range holds the keys from key up to, but not including, range_end.")));
	if (get_option(options, "password") && !get_option(options, "username"))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"password\" needs option \"username\"")));
	PG_RETURN_VOID();
}

/*
 * How to connect to a server; the user mapping may be NULL.
 */
EtcdServerOptions *
etcd_server_options(ForeignServer *server, UserMapping *user)
{
	EtcdServerOptions *result = palloc0(sizeof(EtcdServerOptions));
	const char *name = "connstr";
	char	   *value = get_option(server->options, name);

	if (value == NULL)
	{
		name = "endpoints";
		value = get_option(server->options, name);
	}
	result->endpoints = parse_endpoints(name, value ? value : DEFAULT_ENDPOINT);
	value = get_option(server->options, "connect_timeout");
	result->connect_timeout = value ? parse_seconds("connect_timeout", value) : DEFAULT_CONNECT_TIMEOUT;
	value = get_option(server->options, "request_timeout");
	result->request_timeout = value ? parse_seconds("request_timeout", value) : DEFAULT_REQUEST_TIMEOUT;
	if (user != NULL)
	{
		result->username = get_option(user->options, "username");
		result->password = get_option(user->options, "password");
	}
	return result;
}

/*
 * Appends the options as a JSON object for core: booleans as true and false,
 * consistency as l or s.
 */
void
etcd_options_json(StringInfo buf, List *options)
{
	ListCell   *lc;
	char		separator = '{';

	if (options == NIL)
		appendStringInfoChar(buf, '{');
	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const char *value = defGetString(elem);
		bool		flag;

		for (int i = 0; i < (int) lengthof(option_defs); i++)
		{
			if (strcmp(option_defs[i].name, elem->defname) != 0)
				continue;
			if (option_defs[i].kind == KIND_BOOL && parse_bool(value, &flag))
				value = flag ? "true" : "false";
			else if (option_defs[i].kind == KIND_CONSISTENCY)
				(void) parse_consistency(value, &value);
		}
		appendStringInfoChar(buf, separator);
		escape_json(buf, elem->defname);
		appendStringInfoChar(buf, ':');
		escape_json(buf, value);
		separator = ',';
	}
	appendStringInfoChar(buf, '}');
}

/*
 * Whether planning may ask etcd how many keys there are; the table's option
 * wins over the server's.
 */
bool
etcd_uses_remote_estimate(Oid table)
{
	ForeignTable *foreign = GetForeignTable(table);
	char	   *value = get_option(foreign->options, "use_remote_estimate");
	bool		result = false;

	if (value == NULL)
		value = get_option(GetForeignServer(foreign->serverid)->options, "use_remote_estimate");
	if (value != NULL)
		(void) parse_bool(value, &result);
	return result;
}
