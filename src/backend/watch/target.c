/*
 * target.c
 *	  How a mirror's foreign table maps to its target: by the names of columns.
 *
 * Every column of the target that the foreign table has, too, shows what that
 * shows; others keep their defaults.  The columns that tell etcd's keys apart
 * must be exactly those of a unique index of the target.  Statements compare
 * rows as bytes, so that no operator of any type is needed, and keys by the
 * index's own operators.
 */
#include "postgres.h"

#include "watch/target.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_opfamily.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

/* ---- columns ---- */

/* A column that both tables have. */
typedef struct Mapped
{
	const char *name;			/* quoted */
	char	   *type;			/* of the target's, qualified; without its modifier, which must refuse rather than cut */
	char	   *collation;		/* of the target's, qualified; NULL for none */
	AttrNumber	attnum;			/* of the target's */
	bool		is_key;
	char	   *equals;			/* of a key: the operator of its index */
} Mapped;

static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

static char *
qualified_collation(Oid collation)
{
	HeapTuple	tuple;
	Form_pg_collation form;
	char	   *result;

	if (!OidIsValid(collation))
		return NULL;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	result = quote_qualified_identifier(get_namespace_name(form->collnamespace), NameStr(form->collname));
	ReleaseSysCache(tuple);
	return result;
}

static char *
qualified_operator(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

static bool
is_filled(Form_pg_attribute att)
{
	return !att->attisdropped && att->attgenerated == '\0' && att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS;
}

static List *
map_columns(Relation target, Oid source, List *key_columns)
{
	TupleDesc	desc = RelationGetDescr(target);
	List	   *result = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Mapped	   *mapped;
		ListCell   *lc;

		if (!is_filled(att) || get_attnum(source, NameStr(att->attname)) == InvalidAttrNumber)
			continue;
		mapped = palloc0(sizeof(Mapped));
		mapped->name = pstrdup(quote_identifier(NameStr(att->attname)));
		mapped->type = format_type_extended(getBaseType(att->atttypid), -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
		mapped->collation = qualified_collation(att->attcollation);
		mapped->attnum = att->attnum;
		foreach(lc, key_columns)
			mapped->is_key = mapped->is_key || strcmp(lfirst(lc), NameStr(att->attname)) == 0;
		/* A conversion could make one of two keys. */
		if (mapped->is_key && !IsBinaryCoercible(get_atttype(source, get_attnum(source, NameStr(att->attname))),
												 getBaseType(att->atttypid)))
			continue;
		result = lappend(result, mapped);
	}
	return result;
}

/*
 * The columns that both tables have, with the types of both.
 */
void
etcd_describe_mapping(StringInfo buf, const EtcdFollower *mirror)
{
	Relation	target = table_open(mirror->target, AccessShareLock);
	ListCell   *lc;

	foreach(lc, map_columns(target, mirror->source, NIL))
	{
		Mapped	   *one = lfirst(lc);
		const char *name = NameStr(TupleDescAttr(RelationGetDescr(target), one->attnum - 1)->attname);
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(mirror->source, get_attnum(mirror->source, name), &type, &typmod, &collation);
		appendStringInfo(buf, ",%s %s of %s", one->name, one->type,
						 format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	}
	table_close(target, AccessShareLock);
}

/*
 * The place of the column among those of the index; -1 for none.
 */
static int
place_in(Form_pg_index index, AttrNumber attnum)
{
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		if (index->indkey.values[i] == attnum)
			return i;
	}
	return -1;
}

/*
 * Whether what is equal to the index's column is the same, byte by byte: "A" is
 * not "a", as it is not to etcd.
 */
static bool
is_exact(Relation index, int place)
{
	Oid			type = index->rd_opcintype[place];
	Oid			function = get_opfamily_proc(index->rd_opfamily[place], type, type, BTEQUALIMAGE_PROC);

	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, index->rd_indcollation[place], ObjectIdGetDatum(type)));
}

/*
 * Whether the index keeps keys apart, by their columns and nothing else.  Notes
 * its operators.
 */
static bool
keeps_apart(Relation index, List *mapped)
{
	Form_pg_index form = index->rd_index;
	int			keys = 0;
	ListCell   *lc;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		RelationGetIndexPredicate(index) != NIL || RelationGetIndexExpressions(index) != NIL)
		return false;
	foreach(lc, mapped)
	{
		Mapped	   *one = lfirst(lc);
		int			place = place_in(form, one->attnum);

		if (!one->is_key)
			continue;
		keys++;
		if (place < 0 || !is_exact(index, place))
			return false;
		one->equals = qualified_operator(get_opfamily_member(index->rd_opfamily[place], index->rd_opcintype[place],
															 index->rd_opcintype[place], BTEqualStrategyNumber));
	}
	return keys > 0 && keys == form->indnkeyatts;
}

static bool
find_index(Relation target, List *mapped)
{
	List	   *indexes = RelationGetIndexList(target);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found = keeps_apart(index, mapped);
		index_close(index, AccessShareLock);
		if (found)
			break;
	}
	list_free(indexes);
	return found;
}

/* ---- checks ---- */

static void
check_right(Oid relid, AclMode right)
{
	AclResult	result = pg_class_aclcheck(relid, GetUserId(), right);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

static void
check_rights(const EtcdFollower *mirror)
{
	check_right(mirror->source, ACL_SELECT);
	check_right(mirror->target, ACL_SELECT);
	check_right(mirror->target, ACL_INSERT);
	check_right(mirror->target, ACL_UPDATE);
	check_right(mirror->target, ACL_DELETE);
}

/*
 * The target itself and its partitions, where the rows are.
 */
static void
check_permanence(Relation target)
{
	List	   *parts = target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE
		? find_all_inheritors(RelationGetRelid(target), AccessShareLock, NULL)
		: list_make1_oid(RelationGetRelid(target));
	ListCell   *lc;

	foreach(lc, parts)
	{
		if (get_rel_persistence(lfirst_oid(lc)) != RELPERSISTENCE_PERMANENT)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 lfirst_oid(lc) == RelationGetRelid(target)
					 ? errmsg("\"%s\" cannot be the target of a mirror", RelationGetRelationName(target))
					 : errmsg("\"%s\", with its partition \"%s\", cannot be the target of a mirror",
							  RelationGetRelationName(target), get_rel_name(lfirst_oid(lc))),
					 errhint("Take a table, partitioned or not, that is neither temporary nor unlogged: a crash must not empty it.")));
	}
	list_free(parts);
}

/*
 * Raises an error unless the target is such that it can be kept equal by the
 * present role.  That may change at any time.
 */
void
etcd_check_kind(const EtcdFollower *mirror)
{
	Relation	target = table_open(mirror->target, AccessShareLock);

	if (target->rd_rel->relkind != RELKIND_RELATION && target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be the target of a mirror", RelationGetRelationName(target)),
				 errhint("Take a table, partitioned or not.")));
	check_permanence(target);
	if (target->rd_rules != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\", which has rules, cannot be the target of a mirror", RelationGetRelationName(target)),
				 errhint("Triggers can do what rules do, and work in a mirror.")));
	if (check_enable_rls(mirror->target, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" hides rows from role \"%s\", and cannot be the target of its mirror",
						RelationGetRelationName(target), GetUserNameFromId(GetUserId(), false)),
				 errdetail("Rows that row security hides would neither be deleted nor changed."),
				 errhint("Make the mirror as the table's owner, without FORCE ROW LEVEL SECURITY, or as a role with BYPASSRLS:"
						 " other roles see what their policies say.")));
	table_close(target, AccessShareLock);
}

static void
check_columns(Relation target, Oid source)
{
	TupleDesc	desc = RelationGetDescr(target);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (is_filled(att) && att->attnotnull && !att->atthasdef && att->attidentity == '\0' &&
			get_attnum(source, NameStr(att->attname)) == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" has no counterpart in foreign table \"%s\"",
							NameStr(att->attname), RelationGetRelationName(target), get_rel_name(source)),
					 errhint("Give it a default, let it be NULL, or give the foreign table a column of that name.")));
	}
}

/*
 * Raises an error unless the target can be a mirror of the source for the
 * present role; the names of the columns that tell keys apart.
 */
List *
etcd_check_target(const EtcdFollower *mirror, List *key_attnums)
{
	Relation	target;
	List	   *names = NIL;
	List	   *mapped;
	ListCell   *lc;
	int			keys = 0;

	check_rights(mirror);
	etcd_check_kind(mirror);
	target = table_open(mirror->target, AccessShareLock);
	foreach(lc, key_attnums)
		names = lappend(names, get_attname(mirror->source, lfirst_int(lc), false));
	mapped = map_columns(target, mirror->source, names);
	foreach(lc, mapped)
		keys += ((Mapped *) lfirst(lc))->is_key;
	if (keys == 0 || keys != list_length(names) || !find_index(target, mapped))
	{
		StringInfoData columns;

		initStringInfo(&columns);
		foreach(lc, names)
			appendStringInfo(&columns, "%s%s", foreach_current_index(lc) > 0 ? ", " : "", quote_identifier(lfirst(lc)));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("table \"%s\" has no key that tells the rows of foreign table \"%s\" apart",
						RelationGetRelationName(target), get_rel_name(mirror->source)),
				 errdetail("Columns whose equality is not that of bytes, as by a case-insensitive collation or of type numeric,"
						   " do not tell them apart, nor do columns of another type than the foreign table's."),
				 errhint("Give it PRIMARY KEY (%s), or a unique index on just these columns.", columns.data)));
	}
	check_columns(target, mirror->source);
	table_close(target, AccessShareLock);
	return names;
}

/* ---- statements ---- */

#define THIS_ROW "t.tableoid OPERATOR(pg_catalog.=) $1 AND t.ctid OPERATOR(pg_catalog.=) $2"

/*
 * The rows of the source, as columns of the target's types, under the name s.
 */
static char *
source_rows(const EtcdFollower *mirror, List *mapped, bool keys_only, const char *condition)
{
	StringInfoData sql;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	foreach(lc, mapped)
	{
		Mapped	   *one = lfirst(lc);

		if (keys_only && !one->is_key)
			continue;
		appendStringInfo(&sql, "%sf.%s::%s AS %s", separator, one->name, one->type, one->name);
		separator = ", ";
	}
	appendStringInfo(&sql, " FROM %s f", qualified_name(mirror->source));
	if (condition != NULL)
		appendStringInfo(&sql, " WHERE %s", condition);
	/* DELETE would have all columns of a table that it joins, in case that rows change; what is deleted has none. */
	if (keys_only)
		appendStringInfoString(&sql, " OFFSET 0");
	return sql.data;
}

/*
 * "t.a = s.a AND ...", by the index's operators and the target's collations.
 */
static char *
same_key(List *mapped)
{
	StringInfoData sql;
	const char *separator = "";
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, mapped)
	{
		Mapped	   *one = lfirst(lc);

		if (!one->is_key)
			continue;
		appendStringInfo(&sql, "%st.%s %s s.%s", separator, one->name, one->equals, one->name);
		if (one->collation != NULL)
			appendStringInfo(&sql, " COLLATE %s", one->collation);
		separator = " AND ";
	}
	return sql.data;
}

static void
append_names(StringInfo sql, const char *prefix, List *mapped, bool keys, bool others)
{
	const char *separator = "";
	ListCell   *lc;

	foreach(lc, mapped)
	{
		Mapped	   *one = lfirst(lc);

		if (one->is_key ? !keys : !others)
			continue;
		appendStringInfo(sql, "%s%s%s", separator, prefix, one->name);
		separator = ", ";
	}
}

/*
 * What is done about a row that is there: it becomes what the source shows, if
 * it is not that already.
 */
static char *
on_conflict(List *mapped)
{
	StringInfoData sql;
	const char *separator = "";
	bool		others = false;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, " ON CONFLICT (");
	append_names(&sql, "", mapped, true, false);
	appendStringInfoString(&sql, ") DO ");
	foreach(lc, mapped)
		others = others || !((Mapped *) lfirst(lc))->is_key;
	if (!others)
	{
		appendStringInfoString(&sql, "NOTHING");
		return sql.data;
	}
	appendStringInfoString(&sql, "UPDATE SET ");
	foreach(lc, mapped)
	{
		Mapped	   *one = lfirst(lc);

		if (one->is_key)
			continue;
		appendStringInfo(&sql, "%s%s = excluded.%s", separator, one->name, one->name);
		separator = ", ";
	}
	appendStringInfoString(&sql, " WHERE pg_catalog.record_image_ne(ROW(");
	append_names(&sql, "t.", mapped, false, true);
	appendStringInfoString(&sql, "), ROW(");
	append_names(&sql, "excluded.", mapped, false, true);
	appendStringInfoString(&sql, "))");
	return sql.data;
}

static char *
insert_into(const char *name, List *mapped, const char *rows)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s AS t (", name);
	append_names(&sql, "", mapped, true, true);
	appendStringInfo(&sql, ") %s%s", rows, on_conflict(mapped));
	return sql.data;
}

/*
 * The source's rows that the target does not show just so.
 */
static char *
new_rows(const char *target, const char *rows, List *mapped, const char *equal)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_names(&sql, "s.", mapped, true, true);
	appendStringInfo(&sql, " FROM (%s) s WHERE NOT EXISTS (SELECT FROM %s t WHERE %s AND pg_catalog.record_image_eq(ROW(",
					 rows, target, equal);
	append_names(&sql, "t.", mapped, true, true);
	appendStringInfoString(&sql, "), ROW(");
	append_names(&sql, "s.", mapped, true, true);
	appendStringInfoString(&sql, ")))");
	return sql.data;
}

/*
 * The mirror's statements as the tables are now.  Raises 42P01 when one is gone,
 * and what etcd_check_target() raises for a key that is no more.
 */
EtcdTarget *
etcd_target_statements(const EtcdFollower *mirror)
{
	EtcdTarget *result = palloc0(sizeof(EtcdTarget));
	Relation	target;
	List	   *mapped;
	char	   *equal;
	char	   *rows;
	char	   *own;			/* the target without tables that inherit from it: their rows are not its own */
	StringInfoData keys;

	if (get_rel_name(mirror->source) == NULL || get_rel_name(mirror->target) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the %s of mirror \"%s\" does not exist any more",
						get_rel_name(mirror->target) == NULL ? "target" : "foreign table", mirror->name),
				 errhint("etcd_unmirror() ends it.")));
	check_rights(mirror);
	target = table_open(mirror->target, AccessShareLock);
	mapped = map_columns(target, mirror->source, mirror->key_columns);
	if (!find_index(target, mapped))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("table \"%s\" has lost its key as target of mirror \"%s\"", RelationGetRelationName(target),
						mirror->name),
				 errhint("It needs a unique index on just the columns that tell etcd's keys apart.")));
	result->name = qualified_name(mirror->target);
	own = target->rd_rel->relkind == RELKIND_RELATION ? psprintf("ONLY %s", result->name) : result->name;
	equal = same_key(mapped);
	result->delete_gone = psprintf("DELETE FROM %s t USING (%s) s WHERE %s", own,
								   source_rows(mirror, mapped, true, NULL), equal);
	if (mirror->filter != NULL)
		result->delete_filtered =
			psprintf("DELETE FROM %s t USING (%s) s WHERE %s", own,
					 source_rows(mirror, mapped, true, psprintf("(%s) IS NOT TRUE", mirror->filter)), equal);
	result->delete_others = psprintf("DELETE FROM %s t WHERE NOT EXISTS (SELECT FROM (%s) s WHERE %s)", own,
									 source_rows(mirror, mapped, true, mirror->filter), equal);
	rows = source_rows(mirror, mapped, false, mirror->filter);
	result->upsert = insert_into(result->name, mapped, rows);
	result->repair = insert_into(result->name, mapped, new_rows(own, rows, mapped, equal));
	result->all = psprintf("SELECT f.* FROM %s f", qualified_name(mirror->source));
	initStringInfo(&keys);
	append_names(&keys, "t.", mapped, true, false);
	result->others = psprintf("SELECT t.tableoid, t.ctid, pg_catalog.concat_ws(', ', %s) FROM %s t"
							  " WHERE NOT EXISTS (SELECT FROM (%s) s WHERE %s)", keys.data, own,
							  source_rows(mirror, mapped, true, mirror->filter), equal);
	result->delete_row = psprintf("DELETE FROM %s t WHERE %s", own, THIS_ROW);
	result->is_row = psprintf("SELECT FROM %s t, (%s) s WHERE %s AND %s", own,
							  source_rows(mirror, mapped, true, NULL), THIS_ROW, equal);
	table_close(target, AccessShareLock);
	return result;
}

/*
 * Raises an error unless PostgreSQL takes the statements from the present role.
 */
void
etcd_check_statements(const EtcdFollower *mirror)
{
	EtcdTarget *target = etcd_target_statements(mirror);
	const char *statements[] = {
		target->delete_gone, target->delete_filtered, target->delete_others, target->upsert, target->repair
	};

	SPI_connect();
	for (int i = 0; i < (int) lengthof(statements); i++)
	{
		if (statements[i] != NULL && SPI_prepare(statements[i], 0, NULL) == NULL)
			elog(ERROR, "statement of a mirror failed: %s", SPI_result_code_string(SPI_result));
	}
	SPI_finish();
}
