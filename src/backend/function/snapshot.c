/*
 * snapshot.c
 *	  A snapshot of etcd's database as a file of the server.
 */
#include "postgres.h"

#include <unistd.h>

#include "base/compat.h"
#include "core/dispatch.h"
#include "ipc/converse.h"
#include "server/server.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/acl.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(etcd_fdw_snapshot);

typedef struct SnapshotFile
{
	Oid			serverid;
	const char *path;			/* of the file that is being written */
	int			fd;
	int64		written;
} SnapshotFile;

static Oid
server_of(void *arg)
{
	return ((SnapshotFile *) arg)->serverid;
}

static void
take_bytes(void *arg, const char *data, uint32 len)
{
	SnapshotFile *file = arg;

	while (len > 0)
	{
		ssize_t		done;

		errno = 0;
		done = write(file->fd, data, len);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
		{
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(errcode_for_file_access(), errmsg("could not write file \"%s\": %m", file->path)));
		}
		data += done;
		len -= done;
		file->written += done;
	}
}

static void
check_path(const char *path)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to write a snapshot of etcd to a file"),
				 errhint("Only roles with privileges of \"pg_write_server_files\" may do so; etcd_snapshot_chunks() needs no file.")));
	if (!is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME), errmsg("relative path not allowed for a snapshot of etcd: \"%s\"", path)));
}

/*
 * When writing has failed, or the session ends meanwhile.
 */
static void
remove_unfinished(int code, Datum path)
{
	(void) code;
	(void) unlink(DatumGetCString(path));
}

/*
 * Writes beside the file and renames, so that there is no half a snapshot
 * under its name.
 */
static int64
write_snapshot(Oid dispatch, Oid serverid, char *path)
{
	char	   *unfinished = psprintf("%s.part", path);
	SnapshotFile file = {serverid, unfinished, -1, 0};
	EtcdTalk	talk = {0};
	StringInfoData input;
	EtcdAnswer	answer;

	talk.name = "etcd_snapshot()";
	talk.dispatch = dispatch;
	talk.userid = GetUserId();
	talk.server = server_of;
	talk.take_bytes = take_bytes;
	talk.arg = &file;
	file.fd = OpenTransientFile(unfinished, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	if (file.fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not create file \"%s\": %m", unfinished)));
	initStringInfo(&input);
	appendStringInfoString(&input, "{\"function\":\"etcd_snapshot\",\"args\":{}}");
	PG_ENSURE_ERROR_CLEANUP(remove_unfinished, CStringGetDatum(unfinished));
	{
		(void) etcd_converse(&talk, "function", &input, &answer);
		if (pg_fsync(file.fd) != 0 || CloseTransientFile(file.fd) != 0)
			ereport(ERROR,
					(errcode_for_file_access(), errmsg("could not write file \"%s\": %m", unfinished)));
		(void) durable_rename(unfinished, path, ERROR);
	}
	PG_END_ENSURE_ERROR_CLEANUP(remove_unfinished, CStringGetDatum(unfinished));
	return file.written;
}

/*
 * etcd_snapshot([server text,] path text) returns bigint
 */
Datum
etcd_fdw_snapshot(PG_FUNCTION_ARGS)
{
	int			at = PG_NARGS() - 1;
	char	   *path;
	Oid			serverid;

	for (int i = 0; i <= at; i++)
	{
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" of etcd_snapshot() must not be null", i == at ? "path" : "server")));
	}
	path = text_to_cstring(PG_GETARG_TEXT_PP(at));
	check_path(path);
	serverid = at == 0 ? etcd_default_server("etcd_snapshot")
		: etcd_server_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	etcd_check_usage(serverid, false);
	PG_RETURN_INT64(write_snapshot(etcd_dispatch_beside(fcinfo->flinfo->fn_oid), serverid, path));
}
