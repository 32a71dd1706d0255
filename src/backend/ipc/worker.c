/*
 * worker.c
 *	  The background worker that starts the proxy and keeps it running.
 *
 * There is one worker, and so one proxy, per cluster.  It is registered by the
 * first backend that finds no proxy; shared_preload_libraries is not needed.
 * Two file locks in ETCD_RUN_DIR order the race of many backends: whoever holds
 * start.lock may register a worker, and a worker that does not get worker.lock
 * leaves again.
 *
 * The proxy's standard input is a pipe from the worker: however the worker or
 * the server ends, the proxy sees its end and goes too.
 */
#include "postgres.h"

#include "base/compat.h"
#include "ipc/worker.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

/* A proxy that lived for less than this is started again after a pause. */
#define HEALTHY_MS		5000
#define FIRST_PAUSE_MS	100
#define LONGEST_PAUSE_MS 5000
/* Between asking the proxy to end and killing it. */
#define STOP_MS			1000
/* For the worker to take its lock, on both sides. */
#define LOCK_POLL_MS	10
#define LOCK_TRIES		10

/* The proxy binds under the second name and renames: src/proxy/session/server.ts. */
#define ETCD_SOCKET_FILES	ETCD_SOCKET_PATH "," ETCD_SOCKET_PATH ".new"

PGDLLEXPORT void etcd_fdw_worker_main(Datum arg);

static char *deno_path = NULL;
static int	proxy_memory = 1024;
static int	cache_memory = 128;

void
etcd_worker_init(void)
{
	DefineCustomStringVariable("etcd_fdw.deno_path",
							   "Deno executable that runs the etcd proxy.",
							   "Empty: the one that was installed with etcd_fdw, else deno on the server's PATH.",
							   &deno_path, "", PGC_SIGHUP, GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_fdw.proxy_memory",
							"What the etcd proxy may hold for all sessions together: writes that are not committed, requests and replies.",
							"A proxy takes it when it starts.",
							&proxy_memory, 1024, 64, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
	DefineCustomIntVariable("etcd_fdw.cache_memory",
							"What the etcd proxy may hold for all cached tables together, beside etcd_fdw.proxy_memory.",
							"0 caches nothing. A proxy takes it when it starts.",
							&cache_memory, 128, 0, 1024 * 1024,
							PGC_SIGHUP, GUC_UNIT_MB,
							NULL, NULL, NULL);
}

void
etcd_make_run_dir(void)
{
	if (mkdir(ETCD_RUN_DIR, S_IRWXU) != 0 && errno != EEXIST)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create directory \"%s\": %m", ETCD_RUN_DIR)));
}

static int
open_lock(const char *path)
{
	int			fd = OpenTransientFilePerm(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);

	if (fd < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

/*
 * Waits until the worker has taken its lock, or is gone.
 */
static void
await_lock(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) == BGWH_STARTED)
	{
		int			lock = open_lock(ETCD_WORKER_LOCK);
		bool		is_free = flock(lock, LOCK_SH | LOCK_NB) == 0;

		CloseTransientFile(lock);
		if (!is_free)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOCK_POLL_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Registers a worker unless one runs, or another backend is about to.
 */
void
etcd_ensure_worker(void)
{
	int			start_lock;
	int			worker_lock;
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	etcd_make_run_dir();
	start_lock = open_lock(ETCD_START_LOCK);
	worker_lock = open_lock(ETCD_WORKER_LOCK);
	if (flock(start_lock, LOCK_EX | LOCK_NB) == 0 && flock(worker_lock, LOCK_EX | LOCK_NB) == 0)
	{
		/* The new worker must find its lock free. */
		CloseTransientFile(worker_lock);
		worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
		worker.bgw_start_time = BgWorkerStart_ConsistentState;
		worker.bgw_restart_time = BGW_NEVER_RESTART;
		strlcpy(worker.bgw_library_name, "etcd_fdw", BGW_MAXLEN);
		strlcpy(worker.bgw_function_name, "etcd_fdw_worker_main", BGW_MAXLEN);
		strlcpy(worker.bgw_name, "etcd_fdw proxy supervisor", BGW_MAXLEN);
		strlcpy(worker.bgw_type, "etcd_fdw proxy supervisor", BGW_MAXLEN);
		worker.bgw_notify_pid = MyProcPid;
		if (!RegisterDynamicBackgroundWorker(&worker, &handle))
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no background worker slot is free for the etcd proxy"),
					 errhint("Raise max_worker_processes.")));

		/*
		 * The start lock is held until the worker has its own, so that nobody
		 * registers a second one.
		 */
		if (WaitForBackgroundWorkerStartup(handle, &pid) == BGWH_STARTED)
			await_lock(handle);
		pfree(handle);
	}
	else
		CloseTransientFile(worker_lock);
	CloseTransientFile(start_lock);
}

static void
child_ended(SIGNAL_ARGS)
{
	int			save_errno = errno;

	(void) postgres_signal_arg;
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * The Deno executable and the proxy's bundle, as installed.
 */
static void
find_programs(char *deno, char *bundle)
{
	char		path[MAXPGPATH];

	get_share_path(my_exec_path, path);
	snprintf(bundle, MAXPGPATH, "%s/etcd_fdw/proxy.js", path);
	get_pkglib_path(my_exec_path, path);
	snprintf(deno, MAXPGPATH, "%s/etcd_fdw/deno", path);
	if (deno_path != NULL && *deno_path != '\0')
		strlcpy(deno, deno_path, MAXPGPATH);
	else if (access(deno, X_OK) != 0)
		strlcpy(deno, "deno", MAXPGPATH);
}

/*
 * In the child: becomes the proxy.  Only async-signal-safe calls from here.
 */
static void
become_proxy(char **argv, char **envp, int stdin_fd)
{
	sigset_t	none;
	/* A core would hold all sessions' passwords. */
	struct rlimit no_core = {0, 0};
	long		highest = sysconf(_SC_OPEN_MAX);

	(void) setrlimit(RLIMIT_CORE, &no_core);
	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(stdin_fd, STDIN_FILENO);
	dup2(STDERR_FILENO, STDOUT_FILENO);
	for (int fd = STDERR_FILENO + 1; fd < Min(highest, 65536); fd++)
		close(fd);
	execvpe(argv[0], argv, envp);
	{
		const char *message = "etcd_fdw: could not execute deno: set etcd_fdw.deno_path\n";

		(void) !write(STDERR_FILENO, message, strlen(message));
	}
	_exit(127);
}

/*
 * Starts the proxy.  `*pipe_fd` is the end of its standard input that keeps it
 * alive.
 */
static pid_t
start_proxy(int *pipe_fd)
{
	char		deno[MAXPGPATH];
	char		bundle[MAXPGPATH];
	char		path_env[MAXPGPATH * 2];
	char		deno_dir[MAXPGPATH * 2];
	char		memory[32];
	char		cached[32];
	int			fds[2];
	pid_t		pid;
	const char *path = getenv("PATH");
	char	   *argv[] = {
		deno, "run", "--no-prompt", "--no-config", "--no-remote", "--no-npm", "--quiet",
		"--allow-net", "--ignore-env",
		"--allow-read=" ETCD_SOCKET_FILES, "--allow-write=" ETCD_SOCKET_FILES,
		bundle, ETCD_SOCKET_PATH, memory, cached, NULL
	};
	char	   *envp[] = {
		path_env, deno_dir, "DENO_NO_UPDATE_CHECK=1", "NO_COLOR=1",
		"DENO_TLS_CA_STORE=system,mozilla", NULL
	};

	find_programs(deno, bundle);
	snprintf(memory, sizeof(memory), "%d", proxy_memory);
	snprintf(cached, sizeof(cached), "%d", cache_memory);
	snprintf(path_env, sizeof(path_env), "PATH=%s", path ? path : "/usr/local/bin:/usr/bin:/bin");
	snprintf(deno_dir, sizeof(deno_dir), "DENO_DIR=%s/%s/deno", DataDir, ETCD_RUN_DIR);
	if (pipe(fds) != 0)
		ereport(ERROR, (errcode_for_socket_access(), errmsg("could not create a pipe: %m")));
	fcntl(fds[1], F_SETFD, FD_CLOEXEC);
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid == 0)
		become_proxy(argv, envp, fds[0]);
	close(fds[0]);
	if (pid < 0)
	{
		close(fds[1]);
		ereport(ERROR, (errmsg("could not fork the etcd proxy: %m")));
	}
	*pipe_fd = fds[1];
	ereport(LOG, (errmsg("started the etcd proxy, PID %d", (int) pid)));
	return pid;
}

static void
stop_proxy(pid_t pid, int pipe_fd)
{
	close(pipe_fd);
	kill(pid, SIGTERM);
	for (int waited = 0; waited < STOP_MS; waited += 10)
	{
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return;
		pg_usleep(10000L);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void
worker_sleep(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (ms >= 0 ? WL_TIMEOUT : 0), ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Waits for the proxy's end; false when the worker is to end instead.
 */
static bool
watch_proxy(pid_t pid)
{
	int			status;

	for (;;)
	{
		if (waitpid(pid, &status, WNOHANG) == pid)
		{
			ereport(LOG, (errmsg("the etcd proxy, PID %d, ended with wait status %d", (int) pid, status)));
			return true;
		}
		if (ShutdownRequestPending)
			return false;
		worker_sleep(-1);
	}
}

void
etcd_fdw_worker_main(Datum arg)
{
	int			lock;
	long		pause = 0;

	(void) arg;
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGCHLD, child_ended);
	BackgroundWorkerUnblockSignals();

	/* Held as long as this process lives; no transaction closes it. */
	etcd_make_run_dir();
	lock = BasicOpenFilePerm(ETCD_WORKER_LOCK, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
	if (lock < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", ETCD_WORKER_LOCK)));
	/* Whoever looks whether it is free has it for a moment. */
	for (int tries = 0; flock(lock, LOCK_EX | LOCK_NB) != 0; tries++)
	{
		if (tries == LOCK_TRIES)
			proc_exit(0);
		pg_usleep(LOCK_POLL_MS * 1000L);
	}

	while (!ShutdownRequestPending)
	{
		TimestampTz started = GetCurrentTimestamp();
		int			pipe_fd;
		pid_t		pid = start_proxy(&pipe_fd);

		if (!watch_proxy(pid))
		{
			stop_proxy(pid, pipe_fd);
			break;
		}
		close(pipe_fd);
		if (TimestampDifferenceExceeds(started, GetCurrentTimestamp(), HEALTHY_MS))
			pause = 0;
		else
			pause = Min(pause > 0 ? pause * 2 : FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
		for (TimestampTz wake = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
			 !ShutdownRequestPending && GetCurrentTimestamp() < wake;)
			worker_sleep(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wake));
	}
	proc_exit(0);
}
