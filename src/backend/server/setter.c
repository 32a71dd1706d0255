/*
 * setter.c
 *	  Who has given a setting its value, and for whom that counts.
 *
 * Settings of the session reach into SECURITY DEFINER functions, views and
 * policies.  What a function reads and writes as its owner is not the caller's to
 * decide; so a setting counts there only as the owner or an administrator has
 * made it.
 */
#include "postgres.h"

#include "base/compat.h"
#include "server/setter.h"

#include "miscadmin.h"
#include "utils/acl.h"

/* What was set before the library was loaded is set anew while it is. */
static bool loading = true;

/*
 * Whether a SECURITY DEFINER function runs, or something else on behalf of a
 * role that is not the session's.
 */
bool
etcd_acts_for_another(void)
{
	return GetUserId() != GetOuterUserId();
}

/*
 * Whether the present user can rely on what this role has set up.  That he is a
 * member of it is not enough: others may be, too.
 */
bool
etcd_is_trusted(Oid role)
{
	return role == GetUserId() || superuser_arg(role);
}

/*
 * Who sets a value that comes from this source, to be kept with it; InvalidOid
 * is whoever administers the database.
 */
Oid
etcd_setter(GucSource source)
{
	Oid			role = InvalidOid;
	int			context;

	/* Without the assertion of GetUserId(): a worker restores settings first. */
	if (source > PGC_S_DATABASE)
		GetUserIdAndSecContext(&role, &context);
	/* Not what a SECURITY DEFINER function has set, as a rule, though it may be what has the library loaded. */
	return loading && OidIsValid(role) ? GetOuterUserId() : role;
}

bool
etcd_setter_counts(Oid setter)
{
	return !OidIsValid(setter) || !etcd_acts_for_another() || etcd_is_trusted(setter);
}

/*
 * The same for what is read as this role, which for the tables of a view is the
 * view's owner.  Where row-level security applies to the statement, nobody tells
 * what its policies read from what the user does: so only administrators' counts.
 */
bool
etcd_setter_counts_for(Oid setter, Oid userid, bool row_security)
{
	if (!OidIsValid(setter) || superuser_arg(setter))
		return true;
	if (row_security)
		return false;
	return setter == userid || (userid == GetUserId() && !etcd_acts_for_another());
}

/*
 * A setting that may have had its value before the library was loaded has been
 * defined: PostgreSQL knows who has set that.
 */
void
etcd_setter_recall(const char *name, Oid *setter)
{
	Oid			role = compat_setting_role(compat_find_setting(name));

	if (setter != NULL && OidIsValid(role))
		*setter = role;
}

void
etcd_setters_loaded(void)
{
	loading = false;
}
