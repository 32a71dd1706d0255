/*
 * open.c
 *	  What the proxy is told about a server when a channel is opened.
 *
 * Certificate files are read here, by the PostgreSQL server, and travel as
 * text: the proxy may read no files.  They are read anew with every channel,
 * so that a renewed certificate is taken with the next session or ALTER
 * SERVER.
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "server/open.h"
#include "server/option.h"

#include <sys/stat.h>

#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "mb/pg_wchar.h"
#include "storage/fd.h"
#include "utils/json.h"

/* Larger than any chain of certificates. */
#define MAX_FILE_BYTES (1024 * 1024)

static char *
read_file(DefElem *option)
{
	char	   *path = defGetString(option);
	FILE	   *file = AllocateFile(path, PG_BINARY_R);
	char	   *text;
	size_t		len;

	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\" of option \"%s\": %m", path, option->defname)));
	text = palloc(MAX_FILE_BYTES + 1);
	len = fread(text, 1, MAX_FILE_BYTES + 1, file);
	if (ferror(file))
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read file \"%s\" of option \"%s\": %m", path, option->defname)));
	FreeFile(file);
	if (len > MAX_FILE_BYTES || memchr(text, '\0', len) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("file \"%s\" of option \"%s\" is not in PEM format", path, option->defname)));
	text[len] = '\0';
	return text;
}

static void
append_text(StringInfo json, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(json, "%s\"%s\":", json->data[json->len - 1] == '{' ? "" : ",", name);
	escape_json(json, value);
}

static void
append_prefix(StringInfo json, const char *prefix)
{
	char	   *utf8 = pg_server_to_any(prefix, strlen(prefix), PG_UTF8);

	appendStringInfoString(json, ",\"prefix\":\"");
	etcd_append_hex(json, utf8, strlen(utf8));
	appendStringInfoChar(json, '"');
}

static void
append_file(StringInfo json, const char *name, DefElem *option)
{
	char	   *text;

	if (option == NULL)
		return;
	text = read_file(option);
	append_text(json, name, text);
	explicit_bzero(text, strlen(text));
	pfree(text);
}

/*
 * The payload of an OPEN frame (OpenPayload of src/ipc/frame.ts), in UTF-8.
 * `role` is a label for statistics and for what the session holds; `deadline`
 * is how long the proxy may take to answer a request, in ms.
 */
char *
etcd_open_payload(ForeignServer *server, UserMapping *user, const char *role, uint32 *deadline)
{
	EtcdServerOptions *options = etcd_server_options(server, user);
	StringInfoData json;
	ListCell   *lc;
	char	   *utf8;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"endpoints\":");
	foreach(lc, options->endpoints)
	{
		appendStringInfoChar(&json, lc == list_head(options->endpoints) ? '[' : ',');
		escape_json(&json, lfirst(lc));
	}
	appendStringInfo(&json, "],\"connectTimeout\":%d,\"requestTimeout\":%d,\"maxRetries\":%d,\"retryBackoff\":%d",
					 options->connect_timeout, options->request_timeout,
					 options->max_retries, options->retry_backoff);
	appendStringInfo(&json, ",\"maxTxnOps\":%d,\"requireAtomic\":%s,\"maxStagedBytes\":" INT64_FORMAT,
					 options->max_txn_ops, options->require_atomic ? "true" : "false",
					 (int64) options->max_staged_mb * 1024 * 1024);
	appendStringInfo(&json, ",\"maxRequestBytes\":%d,\"nested\":%s,\"updatable\":%s",
					 options->max_request_bytes, options->nested_txns ? "true" : "false",
					 options->updatable ? "true" : "false");
	append_prefix(&json, options->prefix);
	append_text(&json, "database", get_database_name(MyDatabaseId));
	append_text(&json, "server", server->servername);
	append_text(&json, "role", role);
	if (options->username != NULL)
	{
		append_text(&json, "username", options->username);
		append_text(&json, "password", options->password ? options->password : "");
	}
	if (options->tls)
	{
		appendStringInfo(&json, ",\"tls\":{\"verify\":%s", options->tls_verify ? "true" : "false");
		append_file(&json, "ca", options->cafile);
		append_file(&json, "cert", options->certfile);
		append_file(&json, "key", options->keyfile);
		append_text(&json, "servername", options->tls_servername);
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, '}');
	utf8 = pg_server_to_any(json.data, json.len, PG_UTF8);
	if (utf8 != json.data)
	{
		explicit_bzero(json.data, json.len);
		pfree(json.data);
	}
	*deadline = options->request_timeout;
	return utf8;
}
