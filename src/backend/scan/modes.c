/*
 * modes.c
 *	  The settings under which values become text, and text becomes values.
 *
 * What etcd holds is text that other sessions read, and keys that other
 * sessions look for.  So it must not depend on who writes or reads it: the
 * input and output functions run under settings that are always the same, those
 * that PostgreSQL has by default, with UTC as the time zone.  Where a session
 * has these anyway, which is nearly always, nothing is set.
 *
 * The settings hold from etcd_modes_enter() to etcd_modes_leave(); an error in
 * between takes them back by itself, as those of a function's SET.
 */
#include "postgres.h"

#include "scan/modes.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"
#include "utils/xml.h"

#define UTC			"UTC"
#define ABBREVIATIONS	"Default"
#define ALL_MODES	(ETCD_MODE_DATE | ETCD_MODE_ZONE | ETCD_MODE_FLOAT | ETCD_MODE_MONEY | ETCD_MODE_BYTES | \
					 ETCD_MODE_QUOTES | ETCD_MODE_NULLS | ETCD_MODE_XML)

/*
 * What the functions of a row type's columns look at.
 */
static int
modes_of_columns(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	int			modes = 0;

	check_stack_depth();
	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			modes |= etcd_modes_of(TupleDescAttr(desc, i)->atttypid);
	}
	ReleaseTupleDesc(desc);
	return modes;
}

/*
 * What the functions of this type look at.  A type that is not known here may
 * look at everything, but search_path: that of a user-defined type's function
 * is the user's business, and names something else under another one.
 */
int
etcd_modes_of(Oid type)
{
	Oid			element;

	type = getBaseType(type);
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
		case NAMEOID:
		case TEXTOID:
		case BPCHAROID:
		case VARCHAROID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case OIDOID:
		case TIDOID:
		case XIDOID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case JSONPATHOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case BITOID:
		case VARBITOID:
		case TSVECTOROID:
		case TSQUERYOID:
		case PG_LSNOID:
			return 0;
		case BYTEAOID:
			return ETCD_MODE_BYTES;
		case DATEOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case INTERVALOID:
			return ETCD_MODE_DATE;
		case TIMETZOID:
		case TIMESTAMPTZOID:
			return ETCD_MODE_DATE | ETCD_MODE_ZONE;
		case FLOAT4OID:
		case FLOAT8OID:
		case POINTOID:
		case LSEGOID:
		case PATHOID:
		case BOXOID:
		case POLYGONOID:
		case LINEOID:
		case CIRCLEOID:
			return ETCD_MODE_FLOAT;
		case MONEYOID:
			return ETCD_MODE_MONEY;
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return ETCD_MODE_NAMES | ETCD_MODE_QUOTES;
		case XMLOID:
			return ETCD_MODE_XML;
		default:
			element = get_element_type(type);
			if (OidIsValid(element))
				return etcd_modes_of(element) | ETCD_MODE_NULLS;
			switch (get_typtype(type))
			{
				case TYPTYPE_ENUM:
					return 0;
				case TYPTYPE_COMPOSITE:
					return modes_of_columns(type);
				case TYPTYPE_RANGE:
					return etcd_modes_of(get_range_subtype(type));
				case TYPTYPE_MULTIRANGE:
					return etcd_modes_of(get_multirange_range(type));
				default:
					return ALL_MODES;
			}
	}
}

static bool
has_date_style(void)
{
	return DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY;
}

static bool
has_abbreviations(void)
{
	return strcmp(GetConfigOption("timezone_abbreviations", false, false), ABBREVIATIONS) == 0;
}

/*
 * Which of the modes the session does not have already.
 */
static int
missing_modes(int modes)
{
	int			missing = 0;

	if ((modes & ETCD_MODE_DATE) != 0 &&
		(!has_date_style() || IntervalStyle != INTSTYLE_POSTGRES || !has_abbreviations()))
		missing |= ETCD_MODE_DATE;
	if ((modes & ETCD_MODE_ZONE) != 0 && strcmp(pg_get_timezone_name(session_timezone), UTC) != 0)
		missing |= ETCD_MODE_ZONE;
	if ((modes & ETCD_MODE_FLOAT) != 0 && extra_float_digits < 1)
		missing |= ETCD_MODE_FLOAT;
	if ((modes & ETCD_MODE_MONEY) != 0 && strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		missing |= ETCD_MODE_MONEY;
	if ((modes & ETCD_MODE_BYTES) != 0 && bytea_output != BYTEA_OUTPUT_HEX)
		missing |= ETCD_MODE_BYTES;
	if ((modes & ETCD_MODE_NAMES) != 0 && strcmp(namespace_search_path, "pg_catalog") != 0)
		missing |= ETCD_MODE_NAMES;
	if ((modes & ETCD_MODE_QUOTES) != 0 && quote_all_identifiers)
		missing |= ETCD_MODE_QUOTES;
	if ((modes & ETCD_MODE_NULLS) != 0 && !Array_nulls)
		missing |= ETCD_MODE_NULLS;
	if ((modes & ETCD_MODE_XML) != 0 && xmloption != XMLOPTION_CONTENT)
		missing |= ETCD_MODE_XML;
	return missing;
}

static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Sets what these modes ask for; 0 when the session has it already, otherwise
 * a level for etcd_modes_leave().
 */
int
etcd_modes_enter(int modes)
{
	int			missing = modes == 0 ? 0 : missing_modes(modes);
	int			level;

	if (missing == 0)
		return 0;
	level = NewGUCNestLevel();
	if ((missing & ETCD_MODE_DATE) != 0)
	{
		if (!has_date_style())
			set("DateStyle", "ISO, MDY");
		if (IntervalStyle != INTSTYLE_POSTGRES)
			set("IntervalStyle", "postgres");
		/* PostgreSQL reads them from a file, which takes longer than all else that is done for a row. */
		if (!has_abbreviations())
			set("timezone_abbreviations", ABBREVIATIONS);
	}
	if ((missing & ETCD_MODE_ZONE) != 0)
		set("TimeZone", UTC);
	if ((missing & ETCD_MODE_FLOAT) != 0)
		set("extra_float_digits", "1");
	if ((missing & ETCD_MODE_MONEY) != 0)
		set("lc_monetary", "C");
	if ((missing & ETCD_MODE_BYTES) != 0)
		set("bytea_output", "hex");
	if ((missing & ETCD_MODE_NAMES) != 0)
		set("search_path", "pg_catalog");
	if ((missing & ETCD_MODE_QUOTES) != 0)
		set("quote_all_identifiers", "off");
	if ((missing & ETCD_MODE_NULLS) != 0)
		set("array_nulls", "on");
	if ((missing & ETCD_MODE_XML) != 0)
		set("xmloption", "content");
	return level;
}

void
etcd_modes_leave(int level)
{
	if (level > 0)
		AtEOXact_GUC(true, level);
}
