/*
 * import.c
 *	  IMPORT FOREIGN SCHEMA: the remote schema is a directory of keys.
 *
 * Core lists the directories in it and writes a statement for each
 * (src/core/import.ts).
 */
#include "postgres.h"

#include "core/dispatch.h"
#include "function/import.h"
#include "ipc/converse.h"
#include "server/option.h"

#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "utils/json.h"

static void
append_options(StringInfo buf, List *options)
{
	const char *separator = "";
	ListCell   *lc;

	appendStringInfoChar(buf, '{');
	foreach(lc, options)
	{
		DefElem    *elem = lfirst_node(DefElem, lc);

		appendStringInfoString(buf, separator);
		escape_json(buf, elem->defname);
		appendStringInfoChar(buf, ':');
		escape_json(buf, defGetString(elem));
		separator = ",";
	}
	appendStringInfoChar(buf, '}');
}

static Oid
server_of(void *arg)
{
	return *(Oid *) arg;
}

/*
 * Tells of tables that are not named like their directories; the list has each
 * directory's name and its table's.
 */
static void
tell_renamed(List *names, ImportForeignSchemaStmt *stmt)
{
	for (int i = 0; i + 1 < list_length(names); i += 2)
	{
		const char *table = list_nth(names, i + 1);

		if (IsImportableForeignTable(table, stmt))
			ereport(NOTICE,
					(errmsg("directory \"%s\" of etcd is imported as foreign table \"%s\"",
							(char *) list_nth(names, i), table),
					 errdetail("PostgreSQL cannot tell its name from another directory's, which begins with the same %d bytes.",
							   NAMEDATALEN - 1)));
	}
}

static List *
etcdImportForeignSchema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	ForeignServer *server = GetForeignServer(serverid);
	EtcdTalk	talk = {0};
	StringInfoData input;
	EtcdAnswer	answer;
	ListCell   *lc;

	talk.name = "IMPORT FOREIGN SCHEMA";
	talk.dispatch = etcd_dispatch_function(serverid);
	talk.userid = GetUserId();
	talk.server = server_of;
	talk.arg = &serverid;

	initStringInfo(&input);
	appendStringInfoString(&input, "{\"directory\":");
	escape_json(&input, stmt->remote_schema);
	appendStringInfoString(&input, ",\"name\":");
	escape_json(&input, server->servername);
	appendStringInfoString(&input, ",\"server\":");
	etcd_options_json(&input, etcd_merged_options(server));
	appendStringInfoString(&input, ",\"options\":");
	append_options(&input, stmt->options);
	appendStringInfoChar(&input, '}');
	(void) etcd_converse(&talk, "import", &input, &answer);

	foreach(lc, etcd_json_strings(answer.control, "skipped"))
		ereport(WARNING,
				(errcode(ERRCODE_FDW_INVALID_STRING_FORMAT),
				 errmsg("skipped directory \"%s\" of etcd: its name is not text", (char *) lfirst(lc)),
				 errhint("A foreign table with a key column of type bytea and the options key and range_end can show it.")));
	tell_renamed(etcd_json_strings(answer.control, "renamed"), stmt);
	return etcd_json_strings(answer.control, "statements");
}

void
etcd_import_callbacks(FdwRoutine *routine)
{
	routine->ImportForeignSchema = etcdImportForeignSchema;
}
