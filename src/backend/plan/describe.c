/*
 * describe.c
 *	  Describes a foreign table to core.
 */
#include "postgres.h"

#include "base/compat.h"
#include "plan/describe.h"
#include "server/option.h"

#include "access/sysattr.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

static void
describe_column(StringInfo buf, Oid table, Form_pg_attribute att, bool used)
{
	int32		typmod = att->atttypmod;
	Oid			type = getBaseTypeAndTypmod(att->atttypid, &typmod);

	appendStringInfo(buf, "{\"attnum\":%d,\"name\":", att->attnum);
	escape_json(buf, NameStr(att->attname));
	appendStringInfoString(buf, ",\"type\":");
	escape_json(buf, format_type_be(type));
	appendStringInfo(buf, ",\"typmod\":%s,\"used\":%s,\"options\":", typmod >= 0 ? "true" : "false",
					 used ? "true" : "false");
	etcd_options_json(buf, GetForeignColumnOptions(table, att->attnum));
	appendStringInfoChar(buf, '}');
}

/*
 * PostgreSQL computes such a column from the others wherever it is read, and
 * nothing is stored: it is no part of what etcd has.
 */
static void
check_virtual(Relation relation, Form_pg_attribute att)
{
	if (GetForeignColumnOptions(RelationGetRelid(relation), att->attnum) == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("column \"%s\" of foreign table \"%s\" is virtual, and has no place in etcd",
					NameStr(att->attname), RelationGetRelationName(relation)),
			 errhint("Drop its options, or declare it as STORED."),
			 errtablecol(relation, att->attnum)));
}

/*
 * Appends the opening brace and the members "table", "server", "options" and
 * "columns".  `used` holds the attributes that are needed, offset as in
 * pull_varattnos(); the whole row stands for all.
 */
void
etcd_describe_table(StringInfo buf, Relation relation, Bitmapset *used)
{
	Oid			table = RelationGetRelid(relation);
	ForeignTable *foreign = GetForeignTable(table);
	ForeignServer *server = GetForeignServer(foreign->serverid);
	TupleDesc	desc = RelationGetDescr(relation);
	bool		whole_row = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
	const char *separator = "";

	appendStringInfoString(buf, "{\"table\":");
	escape_json(buf, RelationGetRelationName(relation));
	appendStringInfoString(buf, ",\"server\":");
	etcd_options_json(buf, etcd_merged_options(server));
	appendStringInfoString(buf, ",\"options\":");
	etcd_options_json(buf, foreign->options);
	appendStringInfoString(buf, ",\"columns\":[");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		if (compat_is_virtual(att))
		{
			check_virtual(relation, att);
			continue;
		}
		appendStringInfoString(buf, separator);
		describe_column(buf, table, att,
						whole_row || bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, used));
		separator = ",";
	}
	appendStringInfoChar(buf, ']');
}
