/*
 * qual.c
 *	  Describes the conditions of a scan to core.
 *
 * What is described is shape, not meaning: an operator of PostgreSQL's own
 * between a column of the table and a value that does not change during the
 * scan.  Which of these etcd can fulfil is core's decision; everything else is
 * null in the description and stays with PostgreSQL.
 */
#include "postgres.h"

#include "base/compat.h"
#include "core/dispatch.h"
#include "core/input.h"
#include "plan/qual.h"

#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "access/htup_details.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

typedef struct DescribeContext
{
	StringInfo	buf;
	Index		relid;			/* of the foreign table in the range table */
	Oid			table;
	PlannerInfo *root;
	Relids		outer;			/* whose columns count as values: the scan is inside of a join */
	List	  **params;			/* expressions to evaluate when the scan starts */
} DescribeContext;

static const char *
value_type_name(Oid type)
{
	switch (type)
	{
		case TEXTARRAYOID:
			return "text[]";
		case BYTEAARRAYOID:
			return "bytea[]";
		case TEXTOID:
			return "text";
		case BYTEAOID:
			return "bytea";
		case INT8OID:
			return "int8";
		case INT4OID:
			return "int4";
		case INT2OID:
			return "int2";
		default:
			return NULL;
	}
}

/*
 * Whether text under this collation sorts as the bytes of its UTF-8 do, which
 * is etcd's order: the collation compares bytes, and the database's encoding
 * keeps the order of code points.
 */
bool
etcd_sorts_as_etcd(Oid collation)
{
	int			encoding = GetDatabaseEncoding();
	bool		is_default = collation == DEFAULT_COLLATION_OID;
	HeapTuple	tuple;
	char		provider;
	char	   *locale;

	/* A conflict of collations, which is an error when it comes to comparing. */
	if (!OidIsValid(collation))
		return false;
	if (encoding != PG_UTF8 && encoding != PG_LATIN1 && encoding != PG_SQL_ASCII)
		return false;
	tuple = is_default
		? SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId))
		: SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	locale = is_default ? compat_database_locale(tuple, &provider) : compat_collation_locale(tuple, &provider);
	ReleaseSysCache(tuple);
	return compat_is_c_locale(provider, locale);
}

static const char *
collation_name(Oid collation)
{
	if (!OidIsValid(collation))
		return "none";
	if (!get_collation_isdeterministic(collation))
		return "nondeterministic";
	return etcd_sorts_as_etcd(collation) ? "c" : "deterministic";
}

/*
 * Whether the expression has one value for the whole scan, known at its start.
 */
static bool
is_scan_constant(DescribeContext *context, Node *node)
{
	return bms_is_subset(pull_varnos(context->root, node), context->outer) &&
		!contain_volatile_functions(node) && !contain_subplans(node);
}

static bool
describe_operand(DescribeContext *context, Node *node)
{
	StringInfo	buf = context->buf;
	const char *type;

	while (IsA(node, RelabelType) && IsA(((RelabelType *) node)->arg, Var))
		node = (Node *) ((RelabelType *) node)->arg;
	if (IsA(node, Var) && ((Var *) node)->varno == context->relid)
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup != 0 || var->varattno <= 0)
			return false;
		appendStringInfoString(buf, "{\"column\":");
		escape_json(buf, get_attname(context->table, var->varattno, false));
		appendStringInfoChar(buf, '}');
		return true;
	}
	type = value_type_name(exprType(node));
	if (type == NULL)
		return false;
	if (IsA(node, Const))
	{
		Const	   *constant = (Const *) node;

		if (constant->constisnull)
			appendStringInfoString(buf, "{\"null\":true");
		else
		{
			appendStringInfoString(buf, type_is_array(constant->consttype) ? "{\"array\":" : "{\"hex\":");
			etcd_append_param(buf, constant->constvalue, constant->consttype);
		}
	}
	else
	{
		if (!is_scan_constant(context, node))
			return false;
		appendStringInfo(buf, "{\"param\":%d", list_length(*context->params));
		*context->params = lappend(*context->params, node);
	}
	appendStringInfo(buf, ",\"type\":\"%s\"}", type);
	return true;
}

static bool
describe_binary(DescribeContext *context, const char *op, Oid collation, List *args)
{
	StringInfo	buf = context->buf;

	if (!OidIsValid(collation) && type_is_collatable(exprType(linitial(args))))
		return false;
	appendStringInfoString(buf, "{\"op\":");
	escape_json(buf, op);
	appendStringInfo(buf, ",\"collation\":\"%s\",\"left\":", collation_name(collation));
	if (!describe_operand(context, linitial(args)))
		return false;
	appendStringInfoString(buf, ",\"right\":");
	if (!describe_operand(context, lsecond(args)))
		return false;
	appendStringInfoChar(buf, '}');
	return true;
}

/*
 * column = ANY (array), which IN becomes as well
 */
static bool
describe_any(DescribeContext *context, ScalarArrayOpExpr *any)
{
	char	   *name = any->opno < FirstGenbkiObjectId ? get_opname(any->opno) : NULL;

	if (!any->useOr || name == NULL || strcmp(name, "=") != 0)
		return false;
	return describe_binary(context, "= any", any->inputcollid, any->args);
}

/*
 * column IS NULL, column IS NOT NULL
 */
static bool
describe_null_test(DescribeContext *context, NullTest *test)
{
	if (test->argisrow)
		return false;
	appendStringInfo(context->buf, "{\"op\":\"%s\",\"collation\":\"none\",\"left\":",
					 test->nulltesttype == IS_NULL ? "is null" : "is not null");
	if (!describe_operand(context, (Node *) test->arg))
		return false;
	appendStringInfoString(context->buf, ",\"right\":{\"null\":true,\"type\":\"text\"}}");
	return true;
}

static void describe_clause(DescribeContext *context, Node *clause);

static bool
describe_bool(DescribeContext *context, BoolExpr *expr)
{
	ListCell   *lc;

	if (expr->boolop == NOT_EXPR)
		return false;
	appendStringInfo(context->buf, "{\"%s\":[", expr->boolop == OR_EXPR ? "or" : "and");
	foreach(lc, expr->args)
	{
		if (lc != list_head(expr->args))
			appendStringInfoChar(context->buf, ',');
		describe_clause(context, lfirst(lc));
	}
	appendStringInfoString(context->buf, "]}");
	return true;
}

static bool
describe_shape(DescribeContext *context, Node *clause)
{
	OpExpr	   *op = (OpExpr *) clause;
	FuncExpr   *func = (FuncExpr *) clause;
	char	   *name;

	switch (nodeTag(clause))
	{
		case T_RestrictInfo:
			return describe_shape(context, (Node *) ((RestrictInfo *) clause)->clause);
		case T_BoolExpr:
			return describe_bool(context, (BoolExpr *) clause);
		case T_NullTest:
			return describe_null_test(context, (NullTest *) clause);
		case T_ScalarArrayOpExpr:
			return describe_any(context, (ScalarArrayOpExpr *) clause);
		case T_FuncExpr:
			return func->funcid == F_STARTS_WITH &&
				describe_binary(context, "^@", func->inputcollid, func->args);
		case T_OpExpr:
			if (list_length(op->args) != 2 || op->opno >= FirstGenbkiObjectId)
				return false;
			name = get_opname(op->opno);
			return name != NULL && describe_binary(context, name, op->inputcollid, op->args);
		default:
			return false;
	}
}

/*
 * Appends the description, or null where the shape is not known.
 */
static void
describe_clause(DescribeContext *context, Node *clause)
{
	int			start = context->buf->len;
	int			param_count = list_length(*context->params);

	if (describe_shape(context, clause))
		return;
	context->buf->len = start;
	context->buf->data[start] = '\0';
	*context->params = list_truncate(*context->params, param_count);
	appendStringInfoString(context->buf, "null");
}

/*
 * Appends an array with an entry for each of the conditions (RestrictInfos),
 * and collects in `*params` the expressions that the entries refer to by
 * number.  Columns of the relations in `outer` count as values.
 */
void
etcd_describe_quals(StringInfo buf, PlannerInfo *root, RelOptInfo *rel, Oid table, List *clauses,
					Relids outer, List **params)
{
	DescribeContext context = {buf, rel->relid, table, root, outer, params};
	ListCell   *lc;

	*params = NIL;
	appendStringInfoChar(buf, '[');
	foreach(lc, clauses)
	{
		if (lc != list_head(clauses))
			appendStringInfoChar(buf, ',');
		describe_clause(&context, lfirst(lc));
	}
	appendStringInfoChar(buf, ']');
}
