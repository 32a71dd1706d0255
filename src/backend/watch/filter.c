/*
 * filter.c
 *	  The condition on a mirror's rows: what a user writes, as a text that means
 *	  the same in every session.
 */
#include "postgres.h"

#include "watch/target.h"

#include "access/table.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/guc.h"
#include "utils/ruleutils.h"

static bool
has_subquery(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, SubLink) || expression_tree_walker(node, has_subquery, context);
}

static void
refuse(const char *filter)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("filter \"%s\" is no condition", filter),
			 errhint("Give what would stand behind WHERE.")));
}

/*
 * All columns: the parser takes that for what a query shows, and nobody who
 * looks for an expression expects it.
 */
static bool
is_star(Node *node)
{
	return IsA(node, ColumnRef) && IsA(llast(((ColumnRef *) node)->fields), A_Star);
}

static Node *
parse_filter(const char *filter)
{
	List	   *parsed = raw_parser(filter, RAW_PARSE_PLPGSQL_EXPR);
	ResTarget  *target;
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;

	if (list_length(parsed) != 1 || !IsA(select, SelectStmt) || list_length(select->targetList) != 1 ||
		select->fromClause != NIL || select->whereClause != NULL || select->groupClause != NIL ||
		select->havingClause != NULL || select->sortClause != NIL || select->distinctClause != NIL ||
		select->windowClause != NIL || select->limitCount != NULL || select->limitOffset != NULL ||
		select->lockingClause != NIL || select->op != SETOP_NONE)
		refuse(filter);
	target = linitial_node(ResTarget, select->targetList);
	if (target->name != NULL || is_star(target->val))
		refuse(filter);
	return target->val;
}

/*
 * The condition with all names qualified, on the foreign table under the name
 * f, and constants in forms that every session reads alike: so it means the same to
 * the worker, whose search_path is pg_catalog, whatever is set here.
 */
char *
etcd_qualify_filter(Oid source, const char *filter)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			modes[] = {
		{"search_path", "pg_catalog"}, {"datestyle", "ISO, YMD"}, {"intervalstyle", "postgres"},
		{"extra_float_digits", "1"}, {"standard_conforming_strings", "on"}, {"bytea_output", "hex"}
	};
	Relation	relation = table_open(source, AccessShareLock);
	ParseState *state = make_parsestate(NULL);
	ParseNamespaceItem *item = addRangeTableEntryForRelation(state, relation, AccessShareLock, makeAlias("f", NIL),
															 false, true);
	Node	   *condition;
	int			nest;
	char	   *text;

	addNSItemToQuery(state, item, false, true, true);
	condition = transformExpr(state, parse_filter(filter), EXPR_KIND_WHERE);
	condition = coerce_to_boolean(state, condition, "WHERE");
	assign_expr_collations(state, condition);
	if (has_subquery(condition, NULL) || contain_mutable_functions(condition) || state->p_hasAggs || state->p_hasTargetSRFs)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the filter of a mirror depends on a row of etcd alone"),
				 errdetail("Subqueries, and functions that are not IMMUTABLE, would make the mirror differ from it later.")));
	nest = NewGUCNestLevel();
	for (int i = 0; i < (int) lengthof(modes); i++)
		(void) set_config_option(modes[i].name, modes[i].value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	text = deparse_expression(condition, deparse_context_for("f", source), true, false);
	AtEOXact_GUC(true, nest);
	free_parsestate(state);
	table_close(relation, AccessShareLock);
	return text;
}
