/*
 * subscribe.c
 *	  The SQL functions of subscriptions, and what they have in common with
 *	  those of mirrors.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "server/server.h"
#include "watch/follower.h"
#include "watch/subscribe.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(etcd_fdw_subscribe);
PG_FUNCTION_INFO_V1(etcd_fdw_unfollow);
PG_FUNCTION_INFO_V1(etcd_fdw_pause);
PG_FUNCTION_INFO_V1(etcd_fdw_resume);

/* Arguments of etcd_subscribe(). */
enum
{
	SUBSCRIBE_NAME,
	SUBSCRIBE_PREFIX,
	SUBSCRIBE_CHANNEL,
	SUBSCRIBE_SERVER,
	SUBSCRIBE_KEY,
	SUBSCRIBE_RANGE_END,
	SUBSCRIBE_AFTER,
	SUBSCRIBE_PREV,
	SUBSCRIBE_BATCH
};

/*
 * The argument; NULL for NULL.
 */
char *
etcd_text_arg(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/*
 * The name of a follower, which a worker must be able to be told.
 */
char *
etcd_name_arg(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name = etcd_text_arg(fcinfo, 0);

	if (name == NULL || *name == '\0')
		ereport(ERROR,
				(errcode(name == NULL ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s() needs a name", function)));
	if (strlen(name) >= ETCD_FOLLOWER_NAMELEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name \"%s\" is too long", name),
				 errhint("%d bytes are possible.", ETCD_FOLLOWER_NAMELEN - 1)));
	return name;
}

/*
 * The server of this name, or the one that is meant without; the present role
 * may use it.
 */
char *
etcd_server_arg(const char *name, const char *function)
{
	Oid			serverid = name != NULL ? etcd_server_by_name(name) : etcd_default_server(function);

	etcd_check_usage(serverid, false);
	return GetForeignServer(serverid)->servername;
}

/*
 * What is too long for a request would fail somewhere on its way, each time.
 */
void
etcd_check_key_arg(const char *value, const char *argument, const char *function)
{
	if (value != NULL && strlen(value) > ETCD_FOLLOW_KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" of %s() is too long", argument, function),
				 errhint("%d bytes are possible.", ETCD_FOLLOW_KEY_BYTES)));
}

static bytea *
bytes_of_hex(const char *hex)
{
	int			len;
	char	   *bytes = etcd_from_hex(hex, &len);
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return result;
}

/*
 * Takes the keys that are followed from core's answer; attnums of the columns
 * that tell them apart.
 */
List *
etcd_read_followed(EtcdFollower *follower, EtcdAnswer *answer)
{
	follower->key = bytes_of_hex(etcd_json_text(answer->control, "key"));
	if (etcd_json_number(answer->control, "single") == 0)
		follower->range_end = bytes_of_hex(etcd_json_text(answer->control, "end"));
	return etcd_json_ints(answer->control, "columns");
}

static void
append_key(StringInfo buf, const char *text)
{
	char	   *utf8 = (char *) pg_do_encoding_conversion((unsigned char *) text, strlen(text), GetDatabaseEncoding(), PG_UTF8);

	appendStringInfoChar(buf, '"');
	etcd_append_hex(buf, utf8, strlen(utf8));
	appendStringInfoChar(buf, '"');
}

static void
read_keys(EtcdFollower *follower, const char *prefix, const char *key, const char *range_end)
{
	StringInfoData input;
	EtcdAnswer	answer;

	if ((prefix == NULL) == (key == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("etcd_subscribe() takes either a prefix or a key"),
				 errhint("Give prefix => NULL for a single key, or for a range.")));
	if (prefix != NULL && range_end != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"range_end\" of etcd_subscribe() cannot be given together with prefix")));
	if (key != NULL && *key == '\0' && range_end == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"key\" of etcd_subscribe() must not be empty")));
	etcd_check_key_arg(prefix, "prefix", "etcd_subscribe");
	etcd_check_key_arg(key, "key", "etcd_subscribe");
	etcd_check_key_arg(range_end, "range_end", "etcd_subscribe");
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"key\":");
	append_key(&input, prefix != NULL ? prefix : key);
	appendStringInfoString(&input, ",\"end\":");
	if (range_end != NULL)
		append_key(&input, range_end);
	else
		appendStringInfoString(&input, "null");
	appendStringInfo(&input, ",\"prefix\":%s}", prefix != NULL ? "true" : "false");
	etcd_dispatch(etcd_dispatch_function(etcd_server_by_name(follower->server)), "followKeys", &input, &answer);
	(void) etcd_read_followed(follower, &answer);
}

/*
 * Asks what there is now: whoever may not watch these keys, or begins too far
 * back, is told so at once.
 */
void
etcd_try_follower(const EtcdFollower *follower)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "etcd_fdw try", ALLOCSET_SMALL_SIZES);
	EtcdRequest *request = etcd_follower_ask(follower, 0, context);
	ErrorData	fields = {0};

	etcd_wait(request);
	if (etcd_reply_is_error(request, &fields))
		etcd_raise(&fields);
	MemoryContextDelete(context);
}

/*
 * etcd_subscribe(name, prefix, channel, server, key, range_end, after_revision, prev, batch) returns bigint
 *
 * The revision behind which events will be told.
 */
Datum
etcd_fdw_subscribe(PG_FUNCTION_ARGS)
{
	EtcdFollower follower = {0};

	PreventCommandIfReadOnly("etcd_subscribe()");
	follower.kind = ETCD_SUBSCRIPTION;
	follower.name = etcd_name_arg(fcinfo, "etcd_subscribe");
	follower.owner = GetUserId();
	follower.channel = etcd_text_arg(fcinfo, SUBSCRIBE_CHANNEL);
	if (follower.channel == NULL || *follower.channel == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("etcd_subscribe() needs the name of a channel"),
				 errhint("It is what sessions LISTEN to.")));
	if (strlen(follower.channel) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("channel name \"%s\" is too long", follower.channel),
				 errhint("%d bytes are possible.", NAMEDATALEN - 1)));
	follower.server = etcd_server_arg(etcd_text_arg(fcinfo, SUBSCRIBE_SERVER), "etcd_subscribe");
	read_keys(&follower, etcd_text_arg(fcinfo, SUBSCRIBE_PREFIX), etcd_text_arg(fcinfo, SUBSCRIBE_KEY),
			  etcd_text_arg(fcinfo, SUBSCRIBE_RANGE_END));
	follower.prev = !PG_ARGISNULL(SUBSCRIBE_PREV) && PG_GETARG_BOOL(SUBSCRIBE_PREV);
	follower.batch = !PG_ARGISNULL(SUBSCRIBE_BATCH) && PG_GETARG_BOOL(SUBSCRIBE_BATCH);
	follower.revision = PG_ARGISNULL(SUBSCRIBE_AFTER) ? etcd_present_revision(follower.server)
		: PG_GETARG_INT64(SUBSCRIBE_AFTER);
	if (follower.revision < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"after_revision\" of etcd_subscribe() must not be negative")));
	etcd_try_follower(&follower);
	etcd_follower_insert(&follower);
	PG_RETURN_INT64(follower.revision);
}

/*
 * The follower of this kind and name, which the present role may change.
 */
EtcdFollower *
etcd_own_follower(const char *name, EtcdFollowerKind kind, bool any_kind)
{
	List	   *found = etcd_followers_load(name);
	EtcdFollower *follower = found != NIL ? linitial(found) : NULL;
	const char *what = any_kind ? "subscription or mirror" : kind == ETCD_MIRROR ? "mirror" : "subscription";

	if (follower == NULL || (!any_kind && follower->kind != kind))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("%s \"%s\" does not exist", what, name)));
	if (etcd_is_mirrors_worker(name))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("mirror \"%s\" cannot be changed by what its own worker runs", name),
				 errdetail("What a trigger of the target does is done together with the mirror's rows, or not at all."),
				 errhint("Raise an error in the trigger: the mirror stops, and the view says why.")));
	if (!has_privs_of_role(GetUserId(), follower->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of %s \"%s\"", what, name)));
	return follower;
}

/*
 * etcd_unsubscribe(name) and etcd_unmirror(name) return void
 */
Datum
etcd_fdw_unfollow(PG_FUNCTION_ARGS)
{
	char	   *function = get_func_name(fcinfo->flinfo->fn_oid);
	bool		mirrors = strcmp(function, "etcd_unmirror") == 0;
	char	   *name = etcd_name_arg(fcinfo, function);

	PreventCommandIfReadOnly(mirrors ? "etcd_unmirror()" : "etcd_unsubscribe()");
	etcd_follower_change("DELETE FROM %s.etcd_fdw_follower f WHERE f.name OPERATOR(pg_catalog.=) $1",
						 etcd_own_follower(name, mirrors ? ETCD_MIRROR : ETCD_SUBSCRIPTION, false), 0);
	PG_RETURN_VOID();
}

/*
 * etcd_pause(name) returns void
 */
Datum
etcd_fdw_pause(PG_FUNCTION_ARGS)
{
	char	   *name = etcd_name_arg(fcinfo, "etcd_pause");

	PreventCommandIfReadOnly("etcd_pause()");
	etcd_follower_change("UPDATE %s.etcd_fdw_follower f SET state = 'paused' WHERE f.name OPERATOR(pg_catalog.=) $1",
						 etcd_own_follower(name, ETCD_SUBSCRIPTION, true), 0);
	PG_RETURN_VOID();
}

/*
 * etcd_resume(name, skip) returns void
 *
 * `skip` is the revision of which a mirror's target may refuse rows.
 */
Datum
etcd_fdw_resume(PG_FUNCTION_ARGS)
{
	char	   *name = etcd_name_arg(fcinfo, "etcd_resume");
	int64		skip = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1);
	EtcdFollower *follower;

	PreventCommandIfReadOnly("etcd_resume()");
	follower = etcd_own_follower(name, ETCD_SUBSCRIPTION, true);
	if (!PG_ARGISNULL(1) && (follower->kind != ETCD_MIRROR || skip <= 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"skip\" of etcd_resume() is the revision of a row that the target of a mirror refuses"),
				 errhint("View etcd_fdw_mirrors shows it as error_revision.")));
	etcd_follower_change("UPDATE %s.etcd_fdw_follower f SET state = 'running', home = %s.etcd_fdw_home(),"
						 " skips = CASE WHEN $3 OPERATOR(pg_catalog.=) 0::pg_catalog.int8"
						 " OR $3 OPERATOR(pg_catalog.=) ANY (f.skips) THEN f.skips"
						 " ELSE pg_catalog.array_append(f.skips, $3) END"
						 " WHERE f.name OPERATOR(pg_catalog.=) $1", follower, skip);
	PG_RETURN_VOID();
}
