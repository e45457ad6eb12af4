/*
 * dependents.h
 *     Stored expressions that call ia3_predict_version with a task: what keeps the task, or a version, from being dropped or renamed.
 */
#ifndef IA3_DEPENDENTS_H
#define IA3_DEPENDENTS_H

/*
 * ERROR 2BP01 with a list, if an object's expression calls ia3_predict_version with this task and this version (0: any) as
 * constants. Objects of roles that cannot read the task do not count, although others may use them: whoever may create a view
 * could otherwise keep every task from being dropped. Function bodies in a string, and calls whose arguments are not
 * constant, are not seen. `verb` says what was to be done. Runs as any role.
 */
extern void Ia3DependentsCheck(const char *task, int version, const char *verb);

#endif
