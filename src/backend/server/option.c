/*
 * option.c
 *	  Options of the wrapper, servers, user mappings, foreign tables and columns.
 *
 * One table names every option, where it may stand, what its value must look
 * like and what holds without it; docs/options.md says the same in words, and
 * build/options_test.ts compares the two.  A value is checked here when it is set;
 * what it means for a request is core's business (src/core/plan/options.ts).
 * Connection options and passwords are read here and never reach core.
 */
#include "postgres.h"

#include "server/option.h"
#include "server/option_parse.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"

/* Where an option may stand. */
#define WRAPPER 1
#define SERVER	2
#define USER	4
#define TABLE	8
#define COLUMN	16

typedef struct OptionDef
{
	const char *name;
	const char *setting;		/* what it sets: two names of one option share it */
	int			where;
	OptionKind	kind;
	const char *preset;			/* what holds when the setting is nowhere given */
} OptionDef;

static const OptionDef option_defs[] = {
	{"connstr", "endpoints", WRAPPER | SERVER, KIND_ENDPOINTS, "127.0.0.1:2379"},
	{"endpoints", "endpoints", WRAPPER | SERVER, KIND_ENDPOINTS, "127.0.0.1:2379"},
	{"use_tls", "use_tls", WRAPPER | SERVER, KIND_BOOL, NULL},
	{"cafile", "cafile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"ssl_ca", "cafile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"certfile", "certfile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"ssl_cert", "certfile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"keyfile", "keyfile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"ssl_key", "keyfile", WRAPPER | SERVER, KIND_FILE, NULL},
	{"ssl_servername", "ssl_servername", WRAPPER | SERVER, KIND_NONEMPTY, NULL},
	{"tls_verify", "tls_verify", WRAPPER | SERVER, KIND_BOOL, "true"},
	{"connect_timeout", "connect_timeout", WRAPPER | SERVER, KIND_SECONDS, "10"},
	{"connect_timeout_ms", "connect_timeout", WRAPPER | SERVER, KIND_MILLISECONDS, "10000"},
	{"request_timeout", "request_timeout", WRAPPER | SERVER, KIND_SECONDS, "30"},
	{"request_timeout_ms", "request_timeout", WRAPPER | SERVER, KIND_MILLISECONDS, "30000"},
	{"max_retries", "max_retries", WRAPPER | SERVER, KIND_COUNT, "2"},
	{"retry_backoff_ms", "retry_backoff_ms", WRAPPER | SERVER, KIND_MILLISECONDS, "200"},
	{"max_txn_ops", "max_txn_ops", WRAPPER | SERVER, KIND_POSITIVE, "128"},
	{"max_request_bytes", "max_request_bytes", WRAPPER | SERVER, KIND_BYTES, "1572864"},
	{"nested_txns", "nested_txns", WRAPPER | SERVER, KIND_BOOL, "true"},
	{"atomic", "atomic", WRAPPER | SERVER, KIND_ATOMIC, "split"},
	{"max_staged_mb", "max_staged_mb", WRAPPER | SERVER, KIND_POSITIVE, "256"},
	{"write_mode", "write_mode", WRAPPER | SERVER | TABLE, KIND_WRITE_MODE, "transactional"},
	{"updatable", "updatable", WRAPPER | SERVER | TABLE, KIND_BOOL, "true"},
	{"upsert", "upsert", TABLE, KIND_BOOL, "false"},
	{"username", "username", SERVER | USER, KIND_NONEMPTY, NULL},
	{"user", "username", USER, KIND_NONEMPTY, NULL},
	{"password", "password", SERVER | USER, KIND_TEXT, NULL},
	{"use_remote_estimate", "use_remote_estimate", WRAPPER | SERVER | TABLE, KIND_BOOL, "false"},
	{"prefix", "prefix", SERVER | TABLE, KIND_TEXT, ""},
	{"strip_prefix", "strip_prefix", TABLE, KIND_BOOL, "false"},
	{"rowid_column", "rowid_column", TABLE, KIND_ROWID, "key"},
	{"keys_only", "keys_only", TABLE, KIND_BOOL, "false"},
	{"revision", "revision", TABLE, KIND_REVISION, "0"},
	{"consistency", "consistency", TABLE, KIND_CONSISTENCY, "l"},
	{"cache", "cache", SERVER | TABLE, KIND_BOOL, "false"},
	{"max_staleness", "max_staleness", SERVER | TABLE, KIND_MILLISECONDS, NULL},
	{"cache_verify", "cache_verify", SERVER | TABLE, KIND_PERIOD, "600"},
	{"key", "key", TABLE, KIND_NONEMPTY, NULL},
	{"range_end", "range_end", TABLE, KIND_NONEMPTY, NULL},
	{"key_pattern", "key_pattern", TABLE, KIND_PATTERN, NULL},
	{"key_mismatch", "key_mismatch", TABLE, KIND_MISMATCH, "skip"},
	{"json", "json", COLUMN, KIND_PATH, NULL},
};

PG_FUNCTION_INFO_V1(etcd_fdw_validator);

static int
place_of_catalog(Oid catalog)
{
	switch (catalog)
	{
		case ForeignDataWrapperRelationId:
			return WRAPPER;
		case ForeignServerRelationId:
			return SERVER;
		case UserMappingRelationId:
			return USER;
		case ForeignTableRelationId:
			return TABLE;
		case AttributeRelationId:
			return COLUMN;
		default:
			return 0;
	}
}

static const OptionDef *
find_option_def(const char *name)
{
	for (int i = 0; i < (int) lengthof(option_defs); i++)
	{
		if (strcmp(option_defs[i].name, name) == 0)
			return &option_defs[i];
	}
	return NULL;
}

/*
 * The option of the list that sets this, or NULL.
 */
static DefElem *
find_setting(List *options, const char *setting)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const OptionDef *def = find_option_def(elem->defname);

		if (def != NULL && strcmp(def->setting, setting) == 0)
			return elem;
	}
	return NULL;
}

static char *
get_setting(List *options, const char *setting)
{
	DefElem    *elem = find_setting(options, setting);

	return elem ? defGetString(elem) : NULL;
}

/*
 * A setting that is a number, by default what the table of options says.  The
 * option that is named like the setting has its default.
 */
static int
get_number(List *options, const char *setting)
{
	DefElem    *elem = find_setting(options, setting);
	const OptionDef *def = find_option_def(elem ? elem->defname : setting);

	return option_parse_number(def->name, def->kind, elem ? defGetString(elem) : def->preset);
}

static bool
get_bool(List *options, const char *setting)
{
	const char *value = get_setting(options, setting);
	bool		flag = false;

	if (value == NULL)
		value = find_option_def(setting)->preset;
	return value != NULL && parse_bool(value, &flag) && flag;
}

/*
 * A setting that is a word, by default what the table of options says.
 */
static const char *
get_text(List *options, const char *setting)
{
	const char *value = get_setting(options, setting);

	return value ? value : find_option_def(setting)->preset;
}

static void
unknown_option(const char *name, int place)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < (int) lengthof(option_defs); i++)
	{
		if ((option_defs[i].where & place) != 0)
			appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", option_defs[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 valid.len > 0
			 ? errhint("Valid options in this context are: %s.", valid.data)
			 : errhint("There are no valid options in this context.")));
}

/*
 * A file is read with the rights of the server's operating system user, so
 * that naming one is for those who may do that anyway.
 */
static void
check_file_privilege(const char *name)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errdetail("The file is read by the PostgreSQL server."),
				 errhint("Only superusers and roles with privileges of the role pg_read_server_files may name files of the server.")));
}

/*
 * Two names of one option, or two units of one time, cannot stand together.
 */
static void
check_setting_once(List *options, DefElem *elem, const OptionDef *def)
{
	DefElem    *first = find_setting(options, def->setting);

	if (strcmp(first->defname, elem->defname) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"%s\" and \"%s\" cannot both be given", first->defname, elem->defname),
				 errhint("They set the same: drop one of them.")));
}

static void
check_needs(List *options, const char *setting, const char *needed, const char *hint)
{
	DefElem    *elem = find_setting(options, setting);

	if (elem != NULL && find_setting(options, needed) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" needs option \"%s\"", elem->defname, needed),
				 errhint("%s", hint)));
}

static void
check_key_range(List *options)
{
	char	   *key = get_setting(options, "key");
	char	   *range_end = get_setting(options, "range_end");
	const char *hint = "A range holds the keys from key up to, but not including, range_end.";

	check_needs(options, "range_end", "key", hint);
	if (range_end != NULL && strcmp(range_end, "\\0") != 0 && strcmp(key, "\\0") != 0 &&
		strcmp(key, range_end) >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"range_end\" (\"%s\") does not sort after option \"key\" (\"%s\")", range_end, key),
				 errhint("%s", hint)));
}

/*
 * What a cache in the proxy may be: of the present, and stale only where that
 * is what the table asks for.
 */
static void
check_cache(List *options, int place)
{
	const char *consistency = get_text(options, "consistency");

	check_needs(options, "max_staleness", "cache", "It bounds how old a cached answer may be.");
	check_needs(options, "cache_verify", "cache", "It says how often a cache is compared with etcd.");
	if (place != TABLE)
		return;
	if (find_setting(options, "max_staleness") != NULL &&
		(!option_parse_consistency(consistency, &consistency) || strcmp(consistency, "s") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"max_staleness\" needs option \"consistency\" to be \"s\""),
				 errhint("Linearizable answers are never stale.")));
	if (get_bool(options, "cache") && strcmp(get_text(options, "revision"), "0") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"cache\" and \"revision\" cannot both be given"),
				 errhint("A cache holds the present state.")));
}

/*
 * The endpoints, and whether they are spoken to in TLS: as use_tls says, else
 * as their URLs say, else with TLS when there are certificates for it.
 */
static List *
read_endpoints(List *options, bool *tls)
{
	DefElem    *elem = find_setting(options, "endpoints");
	const OptionDef *def = find_option_def(elem ? elem->defname : "endpoints");
	bool		told = find_setting(options, "use_tls") != NULL;
	EndpointScheme scheme;
	List	   *endpoints;

	endpoints = option_parse_endpoints(def->name, elem ? defGetString(elem) : def->preset, &scheme);
	if (told)
		*tls = get_bool(options, "use_tls");
	else if (scheme != SCHEME_NONE)
		*tls = scheme == SCHEME_HTTPS;
	else
		*tls = find_setting(options, "cafile") != NULL || find_setting(options, "certfile") != NULL;
	if (told && scheme == (*tls ? SCHEME_HTTP : SCHEME_HTTPS))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"use_tls\" contradicts option \"%s\"", def->name),
				 errdetail("use_tls is %s, but the endpoints are %s URLs.",
						   *tls ? "true" : "false", *tls ? "http://" : "https://"),
				 errhint("Give %s URLs or host:port, or drop use_tls.", *tls ? "https://" : "http://")));
	return endpoints;
}

/*
 * Checks the options of one object, as they will stand after the command.
 */
Datum
etcd_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	int			place = place_of_catalog(PG_GETARG_OID(1));
	ListCell   *lc;
	bool		tls;

	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const OptionDef *def = find_option_def(elem->defname);

		if (def == NULL || (def->where & place) == 0)
			unknown_option(elem->defname, place);
		option_check_value(def->name, def->kind, defGetString(elem));
		check_setting_once(options, elem, def);
		if (def->kind == KIND_FILE)
			check_file_privilege(def->name);
	}
	check_key_range(options);
	check_cache(options, place);
	check_needs(options, "password", "username", "A password is that of a user.");
	check_needs(options, "keyfile", "certfile", "A private key is that of a certificate.");
	if (place == SERVER || place == WRAPPER)
		(void) read_endpoints(options, &tls);
	if (place == SERVER && find_setting(options, "password") != NULL)
		ereport(WARNING,
				(errmsg("the password of a server can be read by every user"),
				 errhint("Give username and password to a user mapping instead.")));
	PG_RETURN_VOID();
}

/*
 * The options of a server and of its wrapper: what the server does not set,
 * the wrapper does.  A certificate takes its key along: the wrapper's key is
 * not that of the server's certificate.
 */
List *
etcd_merged_options(ForeignServer *server)
{
	List	   *result = list_copy(server->options);
	bool		own_certificate = find_setting(server->options, "certfile") != NULL;
	ListCell   *lc;

	foreach(lc, GetForeignDataWrapper(server->fdwid)->options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const OptionDef *def = find_option_def(elem->defname);

		if (def == NULL || find_setting(server->options, def->setting) != NULL ||
			(own_certificate && strcmp(def->setting, "keyfile") == 0))
			continue;
		result = lappend(result, elem);
	}
	return result;
}

/*
 * The wrapper's certificate says who the client is.  Who may create servers
 * could show it to any etcd he likes, or act by it; so it serves those servers
 * only whose owner may name such a file himself.
 */
static void
check_certificate_use(ForeignServer *server)
{
	if (find_setting(server->options, "certfile") != NULL ||
		find_setting(GetForeignDataWrapper(server->fdwid)->options, "certfile") == NULL ||
		has_privs_of_role(server->owner, ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("server \"%s\" may not use the certificate of its foreign-data wrapper", server->servername),
			 errdetail("Its owner has not the privileges of the role pg_read_server_files."),
			 errhint("Have the server owned by a role that has them, or set certfile and keyfile for it.")));
}

/*
 * How to connect to a server; the user mapping may be NULL.
 */
EtcdServerOptions *
etcd_server_options(ForeignServer *server, UserMapping *user)
{
	EtcdServerOptions *result = palloc0(sizeof(EtcdServerOptions));
	List	   *options = etcd_merged_options(server);
	List	   *login = options;

	result->endpoints = read_endpoints(options, &result->tls);
	check_certificate_use(server);
	result->tls_verify = get_bool(options, "tls_verify");
	result->tls_servername = get_setting(options, "ssl_servername");
	result->cafile = find_setting(options, "cafile");
	result->certfile = find_setting(options, "certfile");
	result->keyfile = find_setting(options, "keyfile");
	result->connect_timeout = get_number(options, "connect_timeout");
	result->request_timeout = get_number(options, "request_timeout");
	result->max_retries = get_number(options, "max_retries");
	result->retry_backoff = get_number(options, "retry_backoff_ms");

	result->max_txn_ops = get_number(options, "max_txn_ops");
	result->max_staged_mb = get_number(options, "max_staged_mb");
	result->max_request_bytes = get_number(options, "max_request_bytes");
	result->nested_txns = get_bool(options, "nested_txns");
	result->prefix = get_text(options, "prefix");
	result->updatable = get_bool(options, "updatable");
	result->require_atomic = strcmp(get_text(options, "atomic"), "require") == 0;

	/* The password goes with the name: one of each would be nobody's. */
	if (user != NULL && find_setting(user->options, "username") != NULL)
		login = user->options;
	result->username = get_setting(login, "username");
	result->password = get_setting(login, "password");
	return result;
}

/*
 * Whether core reads the option: those of tables and columns, and what servers and the
 * wrapper say for all their tables.
 */
static bool
is_for_core(const OptionDef *def)
{
	/* How large its requests may be is the server's to say. */
	return (def->where & (TABLE | COLUMN)) != 0 || def->kind == KIND_BYTES || strcmp(def->name, "max_txn_ops") == 0;
}

/*
 * Appends the options that core reads as a JSON object: booleans as true and
 * false, consistency as l or s.
 */
void
etcd_options_json(StringInfo buf, List *options)
{
	ListCell   *lc;
	char		separator = '{';

	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);
		const OptionDef *def = find_option_def(elem->defname);
		const char *value = defGetString(elem);
		bool		flag;

		if (def == NULL || !is_for_core(def))
			continue;
		if (def->kind == KIND_BOOL && parse_bool(value, &flag))
			value = flag ? "true" : "false";
		else if (def->kind == KIND_CONSISTENCY)
			(void) option_parse_consistency(value, &value);
		appendStringInfoChar(buf, separator);
		escape_json(buf, elem->defname);
		appendStringInfoChar(buf, ':');
		escape_json(buf, value);
		separator = ',';
	}
	if (separator == '{')
		appendStringInfoChar(buf, '{');
	appendStringInfoChar(buf, '}');
}

/*
 * The options that hold for a setting of a table: its own if it has the
 * setting, otherwise its server's with the wrapper's.
 */
static List *
options_for(Oid table, const char *setting)
{
	ForeignTable *foreign = GetForeignTable(table);

	if (find_setting(foreign->options, setting) != NULL)
		return foreign->options;
	return etcd_merged_options(GetForeignServer(foreign->serverid));
}

/*
 * A boolean setting of a table.
 */
bool
etcd_table_flag(Oid table, const char *setting)
{
	return get_bool(options_for(table, setting), setting);
}

/*
 * Whether planning may ask etcd how many keys there are.
 */
bool
etcd_uses_remote_estimate(Oid table)
{
	return etcd_table_flag(table, "use_remote_estimate");
}

/*
 * Whether writes do not wait for the transaction's end.
 */
bool
etcd_writes_at_once(Oid table)
{
	return strcmp(get_text(options_for(table, "write_mode"), "write_mode"), "immediate") == 0;
}

/*
 * Whether the table shows a revision of its own.
 */
bool
etcd_reads_past(Oid table)
{
	return strcmp(get_text(GetForeignTable(table)->options, "revision"), "0") != 0;
}
