/*
 * encode.c
 *	  From a row to the bytes of its key and its value.
 *
 * Which column is what has been decided by core (src/core/modify.ts).  Text
 * becomes UTF-8, every other type the text of its output function; fields of a
 * JSON value are put into it with PostgreSQL's own jsonb, so that numbers keep
 * their digits.
 */
#include "postgres.h"

#include "base/bytes.h"
#include "core/dispatch.h"
#include "modify/encode.h"
#include "scan/cell.h"
#include "scan/modes.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "nodes/value.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

static EtcdBytes
bytes_of(char *hex)
{
	EtcdBytes	bytes;
	int			len;

	bytes.data = etcd_from_hex(hex, &len);
	bytes.len = len;
	return bytes;
}

/*
 * Reads core's answer to "modify", which is kept as text in the plan.
 */
EtcdWriter *
etcd_writer_create(Relation relation, const char *plan, Bitmapset *named)
{
	Jsonb	   *answer = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(plan)));
	EtcdWriter *writer = palloc0(sizeof(EtcdWriter));
	TupleDesc	desc = RelationGetDescr(relation);
	List	   *literals = NIL;
	ListCell   *lc;

	writer->relation = relation;
	writer->key = (int) etcd_json_number(answer, "key");
	writer->value = (int) etcd_json_number(answer, "value");
	writer->lease = (int) etcd_json_number(answer, "lease");
	writer->ttl = (int) etcd_json_number(answer, "ttl");
	writer->create_revision = (int) etcd_json_number(answer, "create_revision");
	writer->mod_revision = (int) etcd_json_number(answer, "mod_revision");
	writer->version = (int) etcd_json_number(answer, "version");
	writer->segments = etcd_json_ints(answer, "segments");
	foreach(lc, etcd_json_strings(answer, "literals"))
		literals = lappend(literals, makeString(lfirst(lc)));
	etcd_pattern_read(&writer->pattern, literals, etcd_json_number(answer, "rest") != 0);
	writer->fields = etcd_json_ints(answer, "fields");
	writer->paths = etcd_json_strings(answer, "paths");
	writer->strip = bytes_of(etcd_json_text(answer, "strip"));
	writer->start = bytes_of(etcd_json_text(answer, "start"));
	writer->end = bytes_of(etcd_json_text(answer, "end"));
	writer->named = named;
	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			writer->modes |= etcd_modes_of(TupleDescAttr(desc, i)->atttypid);
	}
	return writer;
}

/*
 * Whether the row's column counts: always in a new row, otherwise when the
 * UPDATE sets it.
 */
bool
etcd_writer_sets(EtcdWriter *writer, int attnum, const EtcdKeyValue *old)
{
	return attnum > 0 && (old == NULL || bms_is_member(attnum, writer->named));
}

static char *
attribute_name(EtcdWriter *writer, int attnum)
{
	return NameStr(TupleDescAttr(RelationGetDescr(writer->relation), attnum - 1)->attname);
}

static Oid
attribute_type(EtcdWriter *writer, int attnum)
{
	return getBaseType(TupleDescAttr(RelationGetDescr(writer->relation), attnum - 1)->atttypid);
}

static void
null_violation(EtcdWriter *writer, int attnum, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("null value in column \"%s\" of relation \"%s\" cannot be stored in etcd",
					attribute_name(writer, attnum), RelationGetRelationName(writer->relation)),
			 errhint("%s", hint),
			 errtablecol(writer->relation, attnum)));
}

/*
 * Appends a value as etcd holds it.
 */
static void
append_datum(StringInfo buf, Datum value, Oid type)
{
	const char *data;
	int			len;
	char	   *utf8;

	if (type == BYTEAOID || type == TEXTOID || type == VARCHAROID)
	{
		struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

		data = VARDATA_ANY(bytes);
		len = VARSIZE_ANY_EXHDR(bytes);
		if (type == BYTEAOID)
		{
			appendBinaryStringInfo(buf, data, len);
			return;
		}
	}
	else
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(type, &output, &varlena);
		data = OidOutputFunctionCall(output, value);
		len = strlen(data);
	}
	utf8 = pg_server_to_any(data, len, PG_UTF8);
	appendBinaryStringInfo(buf, utf8, utf8 == data ? len : (int) strlen(utf8));
}

/* ---- keys ---- */

/*
 * A key that the table would not show is not written through it.
 */
static void
check_key(EtcdWriter *writer, const char *key, int len)
{
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WITH_CHECK_OPTION_VIOLATION),
				 errmsg("an empty key cannot be stored in etcd"),
				 errdetail("The row is of foreign table \"%s\".", RelationGetRelationName(writer->relation))));
	if (etcd_compare_bytes(key, len, writer->start.data, writer->start.len) < 0 ||
		(writer->end.len > 0 && etcd_compare_bytes(key, len, writer->end.data, writer->end.len) >= 0))
		ereport(ERROR,
				(errcode(ERRCODE_WITH_CHECK_OPTION_VIOLATION),
				 errmsg("key \"%s\" is outside of foreign table \"%s\"",
						etcd_printable(key, len), RelationGetRelationName(writer->relation)),
				 errdetail("The table would not show the row."),
				 errhint("Its options prefix, key, range_end and key_pattern, and its server's prefix, say which keys it shows.")));
	if (writer->pattern.nliterals > 0 &&
		!etcd_pattern_split(&writer->pattern, key, len, palloc(writer->pattern.nliterals * sizeof(EtcdBytes))))
		ereport(ERROR,
				(errcode(ERRCODE_WITH_CHECK_OPTION_VIOLATION),
				 errmsg("key \"%s\" does not match key_pattern of foreign table \"%s\"",
						etcd_printable(key, len), RelationGetRelationName(writer->relation)),
				 errdetail("The table would not show the row.")));
}

static void
wrong_part(EtcdWriter *writer, int index, const char *data, int len)
{
	ereport(ERROR,
			(errcode(ERRCODE_WITH_CHECK_OPTION_VIOLATION),
			 errmsg("value \"%s\" of column \"%s\" cannot be a part of the key of foreign table \"%s\"",
					etcd_printable(data, len), attribute_name(writer, list_nth_int(writer->segments, index)),
					RelationGetRelationName(writer->relation)),
			 errdetail("By its key_pattern, the key would be read otherwise than it was written.")));
}

/*
 * Appends the key that the row's parts make.  It is read back at once: a part
 * may hold what ends it, alone or together with the text behind it.
 */
static void
append_segments(EtcdWriter *writer, TupleTableSlot *slot, StringInfo buf)
{
	const EtcdPattern *pattern = &writer->pattern;
	int			count = list_length(writer->segments);
	int			start = buf->len;
	int		   *from = palloc(count * sizeof(int));
	int		   *to = palloc(count * sizeof(int));
	EtcdBytes  *parts = palloc(pattern->nliterals * sizeof(EtcdBytes));
	bool		matches;

	for (int i = 0; i < count; i++)
	{
		int			attnum = list_nth_int(writer->segments, i);
		bool		isnull;
		Datum		value = slot_getattr(slot, attnum, &isnull);

		if (isnull)
			null_violation(writer, attnum, "Every part of the key must be there.");
		appendBinaryStringInfo(buf, pattern->literals[i].data, pattern->literals[i].len);
		from[i] = buf->len;
		append_datum(buf, value, attribute_type(writer, attnum));
		to[i] = buf->len;
		/* What no part may be is told of the part that is it. */
		if (to[i] == from[i] ||
			(!(pattern->rest && i + 1 == count) && memchr(buf->data + from[i], '/', to[i] - from[i]) != NULL))
			wrong_part(writer, i, buf->data + from[i], to[i] - from[i]);
	}
	appendBinaryStringInfo(buf, pattern->literals[count].data, pattern->literals[count].len);
	matches = etcd_pattern_split(pattern, buf->data + start, buf->len - start, parts);
	for (int i = 0; i < count; i++)
	{
		if (!matches || parts[i].data != buf->data + from[i] || (int) parts[i].len != to[i] - from[i])
			wrong_part(writer, i, buf->data + from[i], to[i] - from[i]);
	}
}

/*
 * Appends the row's key: from its column or from its parts, whichever the
 * statement gives; both must say the same.  `old` is the row as it was, NULL
 * for a new one.  Raises 23502 for NULL and 44000 for a key outside of the
 * table.
 */
void
etcd_write_key(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, StringInfo buf)
{
	int			at = buf->len;
	bool		by_column = etcd_writer_sets(writer, writer->key, old);
	bool		by_parts = writer->segments != NIL && !list_member_int(writer->segments, 0);
	bool		any_part = false;
	bool		isnull = true;
	Datum		value = (Datum) 0;
	ListCell   *lc;

	if (by_column)
		value = slot_getattr(slot, writer->key, &isnull);
	foreach(lc, writer->segments)
	{
		bool		part_isnull = true;

		if (etcd_writer_sets(writer, lfirst_int(lc), old))
			(void) slot_getattr(slot, lfirst_int(lc), &part_isnull);
		any_part = any_part || !part_isnull;
	}
	/* An UPDATE that sets some parts keeps the others. */
	by_parts = by_parts && (any_part || old == NULL || !by_column);
	if (!isnull)
	{
		appendBinaryStringInfo(buf, writer->strip.data, writer->strip.len);
		append_datum(buf, value, attribute_type(writer, writer->key));
	}
	else if (by_column && old != NULL)
		null_violation(writer, writer->key, "A row of etcd is its key.");
	else if (by_parts)
		append_segments(writer, slot, buf);
	else
		null_violation(writer, Max(writer->key, 1), "A row of etcd is its key.");
	if (!isnull && by_parts && any_part)
	{
		StringInfoData parts;

		initStringInfo(&parts);
		append_segments(writer, slot, &parts);
		if (parts.len != buf->len - at || memcmp(parts.data, buf->data + at, parts.len) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_WITH_CHECK_OPTION_VIOLATION),
					 errmsg("column \"%s\" of foreign table \"%s\" contradicts the parts of its key_pattern",
							attribute_name(writer, writer->key), RelationGetRelationName(writer->relation)),
					 errdetail("The key is \"%s\", but its parts make \"%s\".",
							   etcd_printable(buf->data + at, buf->len - at), etcd_printable(parts.data, parts.len)),
					 errhint("Give the key or its parts, not both.")));
	}
	check_key(writer, buf->data + at, buf->len - at);
}

/* ---- values ---- */

static Datum
text_array(const char *literal)
{
	return OidInputFunctionCall(F_ARRAY_IN, pstrdup(literal), TEXTOID, -1);
}

/*
 * A column's value as JSON.
 */
static Datum
json_of(Datum value, Oid type)
{
	JsonbValue	json;
	Oid			output;
	bool		varlena;
	char	   *shown;

	switch (type)
	{
		case JSONBOID:
			return value;
		case JSONOID:
			return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(DatumGetTextPP(value))));
		case BOOLOID:
			json.type = jbvBool;
			json.val.boolean = DatumGetBool(value);
			return JsonbPGetDatum(JsonbValueToJsonb(&json));
		default:
			break;
	}
	getTypeOutputInfo(type, &output, &varlena);
	shown = OidOutputFunctionCall(output, value);
	if (type == INT2OID || type == INT4OID || type == INT8OID || type == NUMERICOID ||
		type == FLOAT4OID || type == FLOAT8OID)
	{
		/* Not "NaN" and its like, nor "-0": JSON, or jsonb, has no number for them. */
		if (strspn(shown, "0123456789+-.eE") == strlen(shown) && strcmp(shown, "-0") != 0)
			return DirectFunctionCall1(jsonb_in, CStringGetDatum(shown));
	}
	json.type = jbvString;
	json.val.string.val = shown;
	json.val.string.len = strlen(shown);
	return JsonbPGetDatum(JsonbValueToJsonb(&json));
}

/* A column's field of a row's document. */
typedef struct Field
{
	EtcdWriter *writer;
	int			attnum;
	const char *key;			/* the row's, to be told */
	int			key_len;
	Datum	   *steps;			/* text */
	int			nsteps;
} Field;

static Datum
path_to(const Field *field, int nsteps)
{
	return PointerGetDatum(construct_array(field->steps, nsteps, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * What the document holds where so many steps lead, NULL for nothing.
 */
static Jsonb *
held_at(const Field *field, int nsteps, Datum document)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		found;

	if (nsteps == 0)
		return DatumGetJsonbP(document);
	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = document;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = path_to(field, nsteps);
	fcinfo->args[1].isnull = false;
	found = jsonb_extract_path(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(found);
}

static bool
is_json_null(Jsonb *json)
{
	JsonbValue	scalar;

	return json == NULL ||
		(JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &scalar) && scalar.type == jbvNull);
}

/*
 * `detail` takes the path of so many steps, with dots between.
 */
static void
cannot_set(const Field *field, int nsteps, const char *detail)
{
	Relation	relation = field->writer->relation;
	StringInfoData path;

	initStringInfo(&path);
	for (int i = 0; i < nsteps; i++)
		appendStringInfo(&path, "%s%s", i > 0 ? "." : "", TextDatumGetCString(field->steps[i]));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot be set in the row with key \"%s\"",
					attribute_name(field->writer, field->attnum), RelationGetRelationName(relation),
					etcd_printable(field->key, field->key_len)),
			 errdetail_internal(detail, path.data),
			 errhint("Set what is around it as a whole: the value, or a column of type jsonb with a shorter json path."),
			 errtablecol(relation, field->attnum)));
}

/*
 * Makes objects of what is missing on the way to the field, as jsonb_set() does
 * not; false when a field that is to be taken away is not there.  What stands
 * on the way stays: nothing but an object gets fields, and an array keeps its
 * elements in their places.
 */
static bool
open_way(const Field *field, bool take_away, Datum *document)
{
	for (int i = 0; i < field->nsteps; i++)
	{
		Jsonb	   *parent = held_at(field, i, *document);

		if (is_json_null(parent))
		{
			if (take_away)
				return false;
			*document = DirectFunctionCall4(jsonb_set, *document, path_to(field, i),
											DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")), BoolGetDatum(true));
		}
		else if (JB_ROOT_IS_SCALAR(parent))
		{
			if (take_away)
				return false;
			cannot_set(field, i, "Field \"%s\" of its value is no object, and would be lost.");
		}
		else if (JB_ROOT_IS_ARRAY(parent))
		{
			Jsonb	   *element = held_at(field, i + 1, *document);

			if (take_away && is_json_null(element))
				return false;
			if (take_away && i + 1 == field->nsteps)
				cannot_set(field, i + 1, "\"%s\" is an element of an array; without it, others would be in its place.");
			if (element == NULL)
				cannot_set(field, i + 1, "\"%s\" would be an element of an array that has no such element.");
		}
	}
	return true;
}

/*
 * Where the field lies in the document, whatever its path calls it: an element of
 * an array is counted from either end.
 */
static char *
place_of(const Field *field, Datum document)
{
	StringInfoData place;

	initStringInfo(&place);
	for (int i = 0; i < field->nsteps; i++)
	{
		Jsonb	   *parent = held_at(field, i, document);
		char	   *step = TextDatumGetCString(field->steps[i]);

		if (parent != NULL && JB_ROOT_IS_ARRAY(parent) && !JB_ROOT_IS_SCALAR(parent))
		{
			int			index = (int) strtol(step, NULL, 10);

			step = psprintf("%d", index < 0 ? (int) JB_ROOT_COUNT(parent) + index : index);
		}
		appendStringInfo(&place, "%d:%s", (int) strlen(step), step);
	}
	return place.data;
}

/*
 * Whether the row's column becomes a field of the document.  NULL in a new row
 * counts only where the statement names the column: others are NULL because
 * nobody said anything about them.
 */
static bool
sets_field(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, int attnum)
{
	bool		isnull;

	if (old != NULL || bms_is_member(attnum, writer->named))
		return etcd_writer_sets(writer, attnum, old);
	(void) slot_getattr(slot, attnum, &isnull);
	return !isnull;
}

static bool
sets_fields(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old)
{
	for (int i = 0; i + 1 < list_length(writer->fields); i += 2)
	{
		if (sets_field(writer, slot, old, list_nth_int(writer->fields, i)))
			return true;
	}
	return false;
}

static void
set_twice(EtcdWriter *writer, int first, int second)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("columns \"%s\" and \"%s\" of foreign table \"%s\" cannot both be set",
					attribute_name(writer, Min(first, second)), attribute_name(writer, Max(first, second)),
					RelationGetRelationName(writer->relation)),
			 errdetail("They show the same field of the value."),
			 errhint("Set one of them.")));
}

/*
 * The document with the row's fields put into it.  NULL takes a field away:
 * both an absent field and a null read as NULL.  Columns of one field follow
 * each other, and one of them at most may be set.
 */
static Datum
put_fields(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, const char *key, int key_len,
		   Datum document)
{
	const char *last_path = "";
	int			last = 0;
	List	   *places = NIL;
	List	   *attnums = NIL;

	for (int i = 0; i + 1 < list_length(writer->fields); i += 2)
	{
		int			attnum = list_nth_int(writer->fields, i);
		const char *literal = list_nth(writer->paths, list_nth_int(writer->fields, i + 1));
		Field		field = {writer, attnum, key, key_len, NULL, 0};
		Datum		path;
		char	   *place;
		ListCell   *lc;
		ListCell   *set;
		bool		isnull;
		Datum		value;

		if (!sets_field(writer, slot, old, attnum))
			continue;
		if (strcmp(literal, last_path) == 0)
			set_twice(writer, last, attnum);
		last_path = literal;
		last = attnum;
		path = text_array(literal);
		deconstruct_array(DatumGetArrayTypeP(path), TEXTOID, -1, false, TYPALIGN_INT, &field.steps, NULL, &field.nsteps);
		value = slot_getattr(slot, attnum, &isnull);
		if (!open_way(&field, isnull, &document))
			continue;
		place = place_of(&field, document);
		forboth(lc, places, set, attnums)
		{
			if (strcmp(lfirst(lc), place) == 0)
				set_twice(writer, lfirst_int(set), attnum);
		}
		places = lappend(places, place);
		attnums = lappend_int(attnums, attnum);
		if (isnull)
			document = DirectFunctionCall2(jsonb_delete_path, document, path);
		else
			document = DirectFunctionCall4(jsonb_set, document, path,
										   json_of(value, attribute_type(writer, attnum)), BoolGetDatum(true));
	}
	return document;
}

/*
 * Appends the row's value.  `old` is the row as it was, NULL for a new one:
 * what an UPDATE does not set stays, to the byte, as does a document whose
 * fields nobody sets.  `key` is the row's, for errors to tell.
 */
void
etcd_write_value(EtcdWriter *writer, TupleTableSlot *slot, const EtcdKeyValue *old, const char *key, int key_len,
				 StringInfo buf)
{
	int			at = buf->len;
	bool		fields = sets_fields(writer, slot, old);
	bool		has_fields = old == NULL ? writer->fields != NIL : fields;
	Datum		document;
	char	   *text;

	if (etcd_writer_sets(writer, writer->value, old))
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, writer->value, &isnull);
		Oid			type = attribute_type(writer, writer->value);

		if (!isnull)
			append_datum(buf, value, type);
		else if (!has_fields && type != TEXTOID && type != BYTEAOID && type != VARCHAROID)
			null_violation(writer, writer->value, "etcd has empty values but no NULL; give a value of the column's type.");
	}
	else if (old != NULL)
	{
		if (old->value == NULL)
			elog(ERROR, "the value of the row to be changed is not known");
		appendBinaryStringInfo(buf, old->value, old->value_len);
	}
	/* A new row without a value is a document nevertheless, or its fields could not be read. */
	if (!fields && !(has_fields && buf->len == at))
		return;

	text = buf->len > at ? pg_any_to_server(pnstrdup(buf->data + at, buf->len - at), buf->len - at, PG_UTF8) : "{}";
	document = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	/* A scalar is kept as an array of one. */
	if (JB_ROOT_IS_SCALAR(DatumGetJsonbP(document)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the value of key \"%s\" in foreign table \"%s\" has no fields that could be set",
						etcd_printable(key, key_len), RelationGetRelationName(writer->relation)),
				 errdetail("It is JSON, but no object."),
				 errhint("Set the value as a whole, in a column named value.")));
	document = put_fields(writer, slot, old, key, key_len, document);
	text = DatumGetCString(DirectFunctionCall1(jsonb_out, document));
	text = pg_server_to_any(text, strlen(text), PG_UTF8);
	buf->len = at;
	appendStringInfoString(buf, text);
}

/*
 * Seconds of the ttl column; 0 for NULL.
 */
int64
etcd_ttl_seconds(EtcdWriter *writer, TupleTableSlot *slot)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, writer->ttl, &isnull);
	Oid			type = attribute_type(writer, writer->ttl);
	double		seconds;

	if (isnull)
		return 0;
	if (type == INTERVALOID)
	{
		Interval   *interval = DatumGetIntervalP(value);

		seconds = interval->time / (double) USECS_PER_SEC + interval->day * (double) SECS_PER_DAY +
			interval->month * (double) DAYS_PER_MONTH * SECS_PER_DAY;
	}
	else
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(type, &output, &varlena);
		seconds = DatumGetFloat8(DirectFunctionCall1(float8in, CStringGetDatum(OidOutputFunctionCall(output, value))));
	}
	if (!(seconds >= 1) || seconds > 9000000000.0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for column \"%s\" of foreign table \"%s\"",
						attribute_name(writer, writer->ttl), RelationGetRelationName(writer->relation)),
				 errhint("A lease lives from 1 to 9000000000 seconds.")));
	return (int64) (seconds + 0.5);
}
