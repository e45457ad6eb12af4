/*
 * supervisor_list.h
 *     Which engines there should be. In the supervisor only.
 */
#ifndef IA3_SUPERVISOR_LIST_H
#define IA3_SUPERVISOR_LIST_H

/*
 * Brings the engines in line with ia3.backbones and the other settings. False if that has to be done again when an
 * engine that is leaving has left.
 */
extern bool Ia3ApplyConfiguration(void);

/* Lets the successors of each backbone become current when it is time. */
extern void Ia3PromoteSuccessors(void);

#endif
