/*
 * qjs_compile.c
 *	  Compiles core to QuickJS bytecode at build time.
 *
 * Reads a JavaScript expression from the file named first and writes the
 * bytecode of evaluating it to the file named second.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "quickjs.h"

static char *
read_expression(const char *path)
{
	FILE	   *file = fopen(path, "rb");
	long		size;
	char	   *text;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
	{
		perror(path);
		exit(1);
	}
	rewind(file);
	text = malloc(size + 3);
	if (text == NULL || fread(text + 1, 1, size, file) != (size_t) size)
	{
		perror(path);
		exit(1);
	}
	fclose(file);
	text[0] = '(';
	text[size + 1] = ')';
	text[size + 2] = '\0';
	return text;
}

int
main(int argc, char **argv)
{
	JSRuntime  *runtime = JS_NewRuntime();
	JSContext  *context = JS_NewContext(runtime);
	char	   *text;
	JSValue		compiled;
	size_t		size;
	uint8_t    *bytecode;
	FILE	   *out;

	if (argc != 3)
	{
		fprintf(stderr, "usage: qjs_compile INPUT OUTPUT\n");
		return 1;
	}
	text = read_expression(argv[1]);
	compiled = JS_Eval(context, text, strlen(text), "etcd_fdw.js",
					   JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_COMPILE_ONLY);
	if (JS_IsException(compiled))
	{
		fprintf(stderr, "%s: %s\n", argv[1], JS_ToCString(context, JS_GetException(context)));
		return 1;
	}
	bytecode = JS_WriteObject(context, &size, compiled, JS_WRITE_OBJ_BYTECODE);
	out = fopen(argv[2], "wb");
	if (bytecode == NULL || out == NULL || fwrite(bytecode, 1, size, out) != size || fclose(out) != 0)
	{
		perror(argv[2]);
		return 1;
	}
	return 0;
}
