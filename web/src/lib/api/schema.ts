// Written by `make docs` from the table of routes: change that, not this.

/** Credits of a key or a user, in millionths of a dollar. */
export interface AccountView {
  key_id: string;
  user: string | null;
  granted_micros: number;
  spent_micros: number;
  /** held for unfinished tasks */
  held_micros: number;
  /** negative if tasks cost more than was held */
  left_micros: number;
}

/** The rollout of a model. */
export interface AdoptionView {
  model: string;
  /** if false, the newest version gets all tasks that name no version */
  is_staged: boolean;
  /** changes with every change of the stages */
  edition: string;
  live: string;
  canary: CanaryView | null;
  /** earlier live versions, latest first */
  former: (string)[];
  /** newest first */
  versions: (VersionStageView)[];
  /** newest first */
  history: (LifeChangeView)[];
  /** a recommended action; empty for none */
  notice: string;
}

/** The caller's limits; empty if there are none. */
export interface AllowanceView {
  limits: (StandingView)[];
}

/** An output file; the URL is signed and expires. */
export interface ArtifactView {
  url: string;
  content_type: string;
  bytes: number;
  width: number | null;
  height: number | null;
  /** WebP, at most 256 px wide; `w` may also be 128, 512 or 2048 */
  thumbnail_url: string | null;
}

/** Entries of the audit log, newest first; `cursor` gets the next page, null at the end. */
export interface AuditList {
  entries: (AuditView)[];
  cursor: string | null;
}

/** An entry of the audit log. */
export interface AuditView {
  id: string;
  at: string;
  key_id: string;
  key_name: string;
  /** address of the caller, or of the proxy */
  address: string;
  /** such as `keys.create` */
  action: string;
  /** id of the affected object; empty for none */
  target: string;
  /** HTTP status of the answer */
  status: number;
  detail: string;
  request_id: string;
}

/** A vote with a permit instead of a key. */
export interface BallotRequest {
  /** index of the row, from 0 */
  row: number;
  winner?: number | null;
  /** all cells are equally good; then there is no `winner` */
  tie?: boolean;
  voter: string;
  /** of the comparison */
  permit: string;
  voter_id?: string | null;
}

/** Many tasks; all are accepted or none. */
export interface BatchRequest {
  /** each as in `POST /v1/tasks` */
  tasks: (TaskRequest)[];
}

/** The tasks of a batch, in the order of the request. */
export interface BatchView {
  tasks: (TaskView)[];
}

/** A request for a canary. */
export interface CanaryRequest {
  version: string;
  /** share of the tasks that name no version */
  share: number;
  /** keep each `user` of a key on one version (tasks without a user are assigned one by one), or each `key` */
  sticky?: "key" | "user";
  rollback?: RollbackRules;
  /** `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
  edition?: string | null;
}

/** A canary. */
export interface CanaryView {
  version: string;
  share: number;
  since: string;
  sticky: string;
  rollback: RollbackRules;
  /** whether a live worker has it; otherwise the live version gets its share */
  is_served: boolean;
  evidence: VerdictView;
}

/** The result of one model; its name is hidden until voting ends. */
export interface CellView {
  /** number for votes, from 1 */
  number: number;
  picture: PictureView | null;
  text: string | null;
  /** `owner/name:version`; null until voting ends */
  model: string | null;
  /** null until voting ends */
  task_id: string | null;
  /** null until voting ends */
  queue_s: number | null;
  /** null until voting ends */
  run_s: number | null;
  /** in millionths of a dollar; null until voting ends, or without a price */
  cost_micros: number | null;
}

/** A field of a request that was changed so that the task could be accepted. */
export interface ChangeView {
  /** JSON pointer into the request */
  field: string;
  /** the requested value */
  from: unknown;
  /** the value used */
  to: unknown;
}

/** Waiting tasks of a model in one class. */
export interface ClassView {
  name: string;
  priority: number;
  ready: number;
  ready_samples: number;
}

/** A compared model: votes, time, memory and cost, as of `created_at`. */
export interface ComparedView {
  /** `owner/name:version` */
  model: string;
  wins: number;
  ties: number;
  losses: number;
  /** rows with a result */
  rows: number;
  /** rows without a result */
  failures: number;
  /** median wait of its tasks */
  queue_s: number | null;
  /** total load time */
  load_s: number;
  /** median run time of its tasks */
  run_s: number | null;
  /** device memory; null if unknown */
  memory_bytes: number | null;
  images: number;
  /** cost of all its tasks, in millionths of a dollar; null if unknown */
  cost_micros: number | null;
  /** cost of one picture, in millionths of a dollar */
  image_micros: number | null;
}

/** Comparisons, newest first; `cursor` gets the next page and is null at the end. */
export interface ComparisonList {
  comparisons: (ComparisonSummary)[];
  cursor: string | null;
}

/** A request for a comparison. */
export interface ComparisonRequest {
  rows: (ComparisonRow)[];
  /** shown to voters */
  name?: string;
  /** whether other keys may view and vote */
  is_shared?: boolean;
}

/** One input, run by all models. */
export interface ComparisonRow {
  /** ids of ended tasks, one for each model, in the same order in every row */
  tasks: (string)[];
  /** text of the row; taken from the input if empty */
  label: string;
}

/** A comparison in a list. */
export interface ComparisonSummary {
  id: string;
  name: string;
  created_at: string;
  /** when voting ended; null before */
  closed_at: string | null;
  is_shared: boolean;
  /** whether the caller may end voting */
  is_own: boolean;
  /** number of models */
  columns: number;
  votes: number;
  rows: number;
}

/** A comparison of models. Their names are hidden until voting ends. */
export interface ComparisonView {
  id: string;
  name: string;
  created_at: string;
  /** when voting ended; null before */
  closed_at: string | null;
  is_shared: boolean;
  /** whether the caller may end voting */
  is_own: boolean;
  /** number of models */
  columns: number;
  votes: number;
  rows: (RowView)[];
  /** null until voting ends */
  models: (ComparedView)[] | null;
}

/** Worker seconds by use. */
export interface CostKinds {
  /** successful attempts */
  attempts: number;
  /** failed attempts */
  failed: number;
  /** idle time */
  idle: number;
  /** cold starts */
  cold: number;
  /** restarts, model switches, lost contact, minimum billing */
  wasted: number;
  total: number;
}

/** The same in millionths of a dollar, for pools with a price. */
export interface CostMicros {
  attempts: number;
  failed: number;
  idle: number;
  cold: number;
  wasted: number;
  total: number;
}

/** A cost row, with its share of unassigned costs. */
export interface CostView {
  /** model, user, key id, pool or day; null for unassigned costs */
  name: string | null;
  attempts: number;
  /** successful samples */
  images: number;
  seconds: CostKinds;
  /** null if no pool has a price */
  micros: CostMicros | null;
  /** cost of an image, from successful attempts only */
  image_micros: number | null;
  /** the same with all other costs included */
  loaded_image_micros: number | null;
  /** cost of as many images at `costs.api_image_micros` */
  api_micros: number | null;
}

/** Costs of some days. */
export interface CostsList {
  from: string;
  to: string;
  by: string;
  /** price of an image elsewhere, as set by the operator */
  api_image_micros: number | null;
  costs: (CostView)[];
  /** sum of the rows beyond `limit`; null if none */
  others: CostView | null;
  total: CostView;
}

/** A grant. */
export interface CreditEntryView {
  id: string;
  key_id: string;
  user: string | null;
  micros: number;
  at: string;
  note: string;
}

/** A grant of credits. */
export interface CreditRequest {
  /** of the key */
  key_id: string;
  /** null for the key itself */
  user?: string | null;
  /** millionths of a dollar; negative to remove */
  micros: number;
  id?: string | null;
  /** description for people */
  note?: string;
}

/** Accounts by key and user, and grants, newest first. */
export interface CreditsList {
  accounts: (AccountView)[];
  entries: (CreditEntryView)[];
}

/** Which dead letters to replay: those named, or up to 1,000 of a model, or of all. */
export interface DeadReplayRequest {
  ids?: (string)[] | null;
  model?: string | null;
}

/** The result for each dead letter. */
export interface DeadReplayView {
  replayed: (Replayed)[];
}

/** A scaling decision, or an event of a pool. */
export interface DecisionView {
  at: string;
  /** a pool, or a model for relief */
  about: string;
  /** launch, cancel (a boot), drain, end (a machine), hurry (the provider reclaims it), refused or failed (launches or boots), lost (it ended by itself) or relief (demand exceeds supply) */
  what: string;
  /** number of workers */
  n: number;
  /** reasons, one sentence each */
  why: (string)[];
}

/** Changes that the client accepts to meet a deadline. */
export interface DegradeRequest {
  steps?: number | null;
  size_px?: number | null;
  /** other models, best first; the input must fit them */
  models?: (string)[];
}

/** Deliveries, newest first; `cursor` gets the next page and is null at the end. */
export interface DeliveryList {
  deliveries: (DeliveryView)[];
  cursor: string | null;
}

/** One event for one receiver. */
export interface DeliveryView {
  /** the `webhook-id` */
  id: string;
  task: string;
  /** null for the task's own URL */
  endpoint: string | null;
  event: string;
  /** time of the event */
  at: string;
  /** waiting, delivered, failed or skipped */
  state: string;
  reason: string;
  /** attempts since it was first due or last replayed */
  tries: number;
  /** time of the next attempt */
  due_at: string | null;
  ended_at: string | null;
  attempts: (TryView)[];
}

/** Standing webhooks, oldest first. */
export interface EndpointList {
  webhooks: (EndpointView)[];
}

/** A request for a standing webhook. */
export interface EndpointRequest {
  /** http or https, on a public host, without user name and password */
  url: string;
  /** events to send; the four ends by default */
  events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
  /** `owner/name` or `owner/*`; empty for all models */
  models?: (string)[];
  /** description for people */
  description?: string;
  /** send events of all keys; needs an admin key */
  all_keys?: boolean;
  /** format of the body: `native`, or the name of a compatible API */
  format?: string;
}

/** A standing webhook. */
export interface EndpointView {
  id: string;
  key_id: string;
  url: string;
  events: (string)[];
  models: (string)[];
  description: string;
  all_keys: boolean;
  format: string;
  /** active, paused or disabled */
  state: string;
  /** reason, if not active */
  reason: string;
  changed_at: string;
  created_at: string;
  /** signing secret; present on creation, rotation and request */
  secret?: string;
}

/** The same error, as OpenAI's clients read it. */
export interface ErrorEcho {
  message: string;
  type: string;
  code: string;
  param: string | null;
}

/** The estimate for a task sent now. No task is created. */
export interface EstimateView {
  /** whether the task would be accepted */
  is_accepted: boolean;
  /** the error it would get; null if accepted */
  refusal: RefusalView | null;
  /** the model that would run it, after `degrade` */
  model: string;
  version: string;
  /** the input after `degrade` */
  input: Record<string, unknown>;
  priority: number;
  /** the changes that `degrade` would make */
  degraded: (ChangeView)[];
  /** 1 is next */
  position: number;
  /** seconds until the start; null before any measurement */
  start_s: EtaSeconds | null;
  /** seconds until the end; null before any measurement */
  finish_s: EtaSeconds | null;
  /** cost that nine in ten such tasks do not exceed, in millionths of a dollar; null if unknown */
  cost_micros: number | null;
  /** live workers that have the model */
  workers: number;
}

/** Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`. */
export interface EtaSeconds {
  low: number;
  median: number;
  high: number;
}

/** The viewer's favourites among a task's files. */
export interface FavouritesView {
  task_id: string;
  /** their indexes in `artifacts` */
  favourites: (number)[];
}

/** One broken value. */
export interface FieldProblem {
  pointer: string;
  detail: string;
  code: string;
}

/** A grant and the new balance. */
export interface GrantView {
  id: string;
  /** false if this id was granted before */
  is_new: boolean;
  account: AccountView;
}

/** Whether the service works. */
export interface HealthView {
  status: string;
  checks: Record<string, string>;
}

/** The deliveries to replay. */
export interface HookReplayRequest {
  /** replay deliveries of events since this time */
  since: string;
}

/** The number of replayed deliveries. */
export interface HookReplayView {
  replayed: number;
}

/** The overlap with the previous secret. */
export interface HookRotateRequest {
  /** seconds during which both secrets sign */
  overlap_s?: number;
}

/** A secret that signs webhooks. */
export interface HookSecretView {
  /** `whsec_` and base64 */
  key: string;
  created_at: string;
  /** end of the overlap with the previous secret */
  old_until: string | null;
}

/** Limits of a key; null for the settings' value. */
export interface KeyLimitsView {
  rate_per_s: number | null;
  burst: number | null;
  tasks_in_flight: number | null;
  tasks_per_day: number | null;
  streams: number | null;
}

/** Keys, revoked ones included. */
export interface KeyList {
  keys: (KeyView)[];
}

/** A request for a key. Limits default to the settings. */
export interface KeyRequest {
  /** description for people */
  name: string;
  /** client, worker or admin */
  scopes?: (Scope)[];
  expires_in_s?: number | null;
  /** pools that workers with this key may join; empty for any */
  pools?: (string)[];
  /** models that its workers may have, `owner/name` or `owner/*`; empty for any */
  models?: (string)[];
  rate_per_s?: number | null;
  burst?: number | null;
  tasks_in_flight?: number | null;
  tasks_per_day?: number | null;
  streams?: number | null;
  /** classes that the key may use, default first; empty for any */
  classes?: (string)[];
}

/** A key, without its secret. */
export interface KeyView {
  id: string;
  name: string;
  scopes: (Scope)[];
  created_at: string;
  revoked_at: string | null;
  expires_at: string | null;
  /** last use, to the minute; null if never */
  used_at: string | null;
  /** end of the overlap of its last rotation */
  old_until: string | null;
  pools: (string)[];
  models: (string)[];
  limits: KeyLimitsView;
  /** classes that it may use; empty for any */
  classes: (string)[];
}

/** An entry of the ledger. */
export interface LedgerEntryView {
  id: string;
  at: string;
  /** cold_start, attempt, failed, idle or wasted */
  kind: string;
  pool: string;
  models: (string)[];
  worker_id: string | null;
  /** its startup or attempt */
  ref: string;
  /** how that ended; `paid` for payments to remote services */
  outcome: string;
  seconds: number;
  /** millionths of a dollar; null if the pool has no price */
  cost_micros: number | null;
  /** key of the attempts */
  key_id: string | null;
  user: string | null;
  attempts: number;
  images: number;
}

/** Entries of the ledger, latest first. */
export interface LedgerList {
  entries: (LedgerEntryView)[];
  cursor: number | null;
}

/** A change of a rollout. */
export interface LifeChangeView {
  at: string;
  /** name of the key; empty if automatic */
  who: string;
  /** `canary`, `promote`, `rollback` or `retire` */
  action: string;
  version: string;
  share: number | null;
  reason: string;
}

/** Recent run times of a model on one kind of device. */
export interface MeasuredView {
  /** the workers' name for it, such as `cpu` or `cuda:0` */
  device: string;
  tasks: number;
  /** for each task, including delivery */
  median_s: number;
}

/** Models, by name. */
export interface ModelList {
  models: (ModelView)[];
}

/** Outlook for new tasks of a model. */
export interface ModelScalingView {
  model: string;
  /** seconds until a worker takes the first task: 0 if one is ready, null if none is launched */
  ready_in_s: number | null;
  /** share of new tasks that can start in time */
  admitted: number;
  /** wait of a new task if not all can */
  wait_s: number;
  /** factor by which tasks would have to shrink so that all can */
  speedup: number;
}

/** A version of a model. */
export interface ModelView {
  name: string;
  version: string;
  description: string;
  stage: string;
  input_schema: Record<string, unknown>;
  output_schema: Record<string, unknown>;
  examples: (Record<string, unknown>)[];
  registered_at: string | null;
  /** live workers that have it */
  workers: number;
  /** recent task times, in seconds */
  service_s: EtaSeconds | null;
  /** the same by device */
  measured: (MeasuredView)[];
  /** of code and weights, as SPDX or text; empty if not stated */
  licence: string;
  /** Markdown */
  credits: string;
  /** device memory; null if unknown */
  memory_bytes: number | null;
  /** price of a sample at a remote service, in millionths of a dollar; null if it has none */
  price_micros: number | null;
  /** the author's measurements, in seconds */
  speed: (Speed)[];
  samples: (SampleView)[];
  /** seconds until a typical task sent now would end */
  eta_s: EtaSeconds | null;
  /** seconds until a typical task sent now would start */
  start_s: EtaSeconds | null;
  /** its stages; null for a model */
  pipeline: Pipeline | null;
  urls: Record<string, string>;
}

/** A new comparison. */
export interface NewComparisonView {
  comparison: ComparisonView;
  /** allows voting without a key; shown only once */
  permit: string;
}

/** A new key, or one with a new secret. The secret is shown only once. */
export interface NewKeyView {
  id: string;
  name: string;
  scopes: (Scope)[];
  created_at: string;
  expires_at: string | null;
  /** end of the overlap of the rotation */
  old_until: string | null;
  key: string;
}

/** Durations of a phase: quantiles that include unfinished ones (Kaplan-Meier). */
export interface PhaseTimesView {
  /** cold, restart or switch */
  kind: string;
  model: string;
  /** boot, pull, import, fetch, load, warm, first_task; ready: until it takes tasks; whole: ready and the first task */
  phase: string;
  p50_s: number | null;
  p90_s: number | null;
  p99_s: number | null;
  /** quantiles that are lower bounds */
  at_least: (string)[];
  /** number of finished ones */
  observed: number;
  /** number of running ones, and of those that died in it */
  not_over: number;
}

/** A copy of a picture without metadata. */
export interface PictureView {
  /** signed, expires */
  url: string;
  content_type: string;
  width: number;
  height: number;
}

/** What is to be done, in order. */
export interface Pipeline {
  stages: (Stage)[];
  output: string | Record<string, string>;
  defaults: Record<string, unknown>;
}

/** Pools by name. */
export interface PoolList {
  pools: (PoolView)[];
}

/** State of a pool that launches workers on demand. */
export interface PoolScalingView {
  provider: string;
  models: (string)[];
  /** workers wanted */
  desired: number;
  /** workers that take tasks */
  ready: number;
  /** ready workers that hold tasks */
  busy: number;
  /** launched, and not ready yet */
  booting: number;
  /** workers that finish their tasks and exit */
  draining: number;
  least: number;
  most: number;
  /** price of a worker-hour, in millionths of a dollar */
  hour_micros: number | null;
  /** source: a setting, the cloud, or a row of Swell's price list */
  price_source: string | null;
  /** day on which the price was read; null for a setting */
  price_read_on: string | null;
  /** when the cloud reported it; null for other sources */
  price_told_at: string | null;
  /** why it is not the cloud's current price, if it should be */
  price_note: string | null;
  /** whether the provider may reclaim the machines */
  spot: boolean;
  location: string | null;
  /** seconds until the provider is asked again */
  closed_s: number;
  why_closed: string | null;
  /** seconds from launch until it takes tasks */
  start_p50_s: number;
  start_p95_s: number;
  /** action → number of workers, as in decisions */
  counts: Record<string, number>;
  /** how machines ended → number */
  ends: Record<string, number>;
  /** reasons for the wanted number */
  reasons: (string)[];
  /** latest decision about this pool */
  decision: DecisionView | null;
}

/** A pool of workers. */
export interface PoolView {
  pool: string;
  /** state → number */
  workers: Record<string, number>;
  /** workers that are not ready yet */
  starting: number;
  /** capacity of its live workers, in tasks */
  slots: number;
  /** tasks that they hold, as known to this backend */
  held: number;
  /** from the last 200 startups of each kind and set of models */
  times: (PhaseTimesView)[];
  /** null if nothing launches its workers */
  scaling: PoolScalingView | null;
}

/** What went wrong and what to do about it (RFC 9457). */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  instance: string;
  code: string;
  errors: (FieldProblem)[];
  request_id: string;
  error: ErrorEcho;
  error_type: string;
}

/** A request to promote a version or the canary. */
export interface PromoteRequest {
  /** null for the canary, with `edition`. A version that was rolled back automatically needs `edition` too, or the answer is 409 */
  version?: string | null;
  /** `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
  edition?: string | null;
}

/** Queues that are not empty, by name. */
export interface QueueList {
  queues: (QueueView)[];
}

/** A queue. */
export interface QueueView {
  queue: string;
  ready: number;
  delayed: number;
  running: number;
  ready_samples: number;
  oldest_ready_at: string | null;
  /** seconds until a task sent now would end */
  eta_s: EtaSeconds | null;
  /** seconds until a task sent now would start */
  start_s: EtaSeconds | null;
  /** waiting tasks of the model by class, over all its queues */
  classes: (ClassView)[];
}

/** Quotas, by key and user. */
export interface QuotaList {
  quotas: (QuotaView)[];
}

/** How much a key, or a user of it, may use, in place of what was said before; null for any amount. Days and months are those of UTC. */
export interface QuotaRequest {
  /** of the key */
  key_id: string;
  /** null for the key itself; `*` for every user without a quota */
  user?: string | null;
  tasks_per_day?: number | null;
  tasks_per_month?: number | null;
  /** pictures */
  samples_per_day?: number | null;
  /** pictures */
  samples_per_month?: number | null;
  /** cost, in millionths of a dollar */
  micros_per_day?: number | null;
  /** cost, in millionths of a dollar */
  micros_per_month?: number | null;
  /** refuse tasks that the credits do not cover */
  is_prepaid?: boolean;
}

/** A quota and its remainder. */
export interface QuotaView {
  key_id: string;
  user: string | null;
  tasks_per_day: number | null;
  tasks_per_month: number | null;
  samples_per_day: number | null;
  samples_per_month: number | null;
  micros_per_day: number | null;
  micros_per_month: number | null;
  is_prepaid: boolean;
  /** empty if `user` is `*` */
  left: (StandingView)[];
}

/** Ratings, best first, from all comparisons with ended voting. */
export interface RatingList {
  ratings: (RatingView)[];
  comparisons: number;
  votes: number;
}

/** A model's rating and its uncertainty. */
export interface RatingView {
  /** `owner/name:version` */
  model: string;
  /** estimated strength */
  mu: number;
  /** its standard deviation */
  sigma: number;
  /** mu minus three sigma; the order of the list */
  ordinal: number;
  /** lower end of the 95 % interval */
  low: number;
  /** its upper end */
  high: number;
  /** votes on rows with a result of it */
  votes: number;
  wins: number;
  ties: number;
  /** in words */
  summary: string;
}

/** Why a task would not be accepted. */
export interface RefusalView {
  code: string;
  status: number;
  title: string;
  detail: string;
  retry_after_s: number | null;
}

/** A dead letter and the task that repeats it; `error` says why there is none. */
export interface Replayed {
  id: string;
  new_id: string | null;
  error: string | null;
}

/** A request to retire a version. */
export interface RetireRequest {
  version: string;
  /** `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
  edition?: string | null;
}

/** A request to roll back. */
export interface RollbackRequest {
  /** the canary, or the live version without a canary; 409 if it is another one by now; null for either */
  version?: string | null;
  /** reason for the history */
  reason?: string;
  /** `edition` of GET …/adoption: answers 409 if the stages have changed since; null skips the check */
  edition?: string | null;
}

/** Rules for automatic rollback. */
export interface RollbackRules {
  automatic: boolean;
  /** highest probability of rolling back a canary that is no worse */
  false_alarm: number;
  /** tolerated increase of the failure rate */
  failures_by: number;
  /** tolerated ratio of the 95th percentiles */
  p95_by: number;
}

/** A request to rotate a secret. */
export interface RotateRequest {
  /** seconds during which the previous secret works */
  overlap_s?: number;
}

/** A request to rotate the URL signing secret. */
export interface RotateSigningRequest {
  /** invalidate all URLs signed before */
  revoke?: boolean;
}

/** A row, with its cells in random order. */
export interface RowView {
  row: number;
  label: string;
  /** whether the row has at least two results */
  can_be_voted: boolean;
  /** number of the cell that `voter` chose; null for none or a tie */
  voted: number | null;
  /** whether `voter` voted for a tie */
  is_tie: boolean;
  /** null until voting ends */
  seed: number | null;
  cells: (CellView)[];
}

/** A picture, sound or text on a model's card; its URL needs no key and never changes. */
export interface SampleView {
  url: string;
  caption: string;
  content_type: string;
  /** in px, for a picture; else 0 */
  width: number;
  /** in px, for a picture; else 0 */
  height: number;
  /** the text, for a text; else empty */
  text: string;
}

/** The autoscaler's state and decisions. */
export interface ScalingView {
  /** null if no autoscaler runs */
  at: string | null;
  /** the process that decides */
  leader: string | null;
  /** age of its data, in seconds */
  age_s: number | null;
  /** spent by all pools today (UTC), in millionths of a dollar */
  spent_micros: number | null;
  models: (ModelScalingView)[];
  /** newest first */
  decisions: (DecisionView)[];
}

export type Scope = "admin" | "client" | "worker";

/** Observations of a version since the canary started. */
export interface SeenView {
  /** first attempts, without tasks that were themselves at fault */
  attempts: number;
  failures: number;
  /** of the latest 200 runs, for one sample */
  p95_s: number | null;
}

/** Share links; `cursor` gets the next page and is null at the end. */
export interface ShareList {
  shares: (ShareView)[];
  cursor: string | null;
}

/** Options of a share link. */
export interface ShareRequest {
  /** whether to show the prompt */
  with_prompt?: boolean;
  /** when the link expires; null for never */
  expires_at?: string | null;
}

/** A share link. */
export interface ShareView {
  task_id: string;
  /** a page that needs no key and no scripts */
  url: string;
  /** the secret part of the link */
  token: string;
  with_prompt: boolean;
  created_at: string;
  /** null for never */
  expires_at: string | null;
}

/** A shared picture: WebP without metadata. */
export interface SharedPictureView {
  /** at most 2048 px wide */
  url: string;
  /** the same, at most 512 px wide */
  thumbnail_url: string;
  /** of the picture at `url`, in px */
  width: number | null;
  height: number | null;
}

/** The shared part of a task. */
export interface SharedView {
  model: string;
  /** null if not shown */
  prompt: string | null;
  seed: number | null;
  /** numbers, switches and choices of the input; no texts or files */
  settings: Record<string, unknown>;
  made_at: string;
  expires_at: string | null;
  pictures: (SharedPictureView)[];
  /** tasks that a visitor may run without a key of their own */
  guest_tasks: number;
}

/** The URL signing secrets, without their values. */
export interface SigningView {
  /** when the newest takes effect */
  signs_from: string;
  /** when the last older URL expires; null for at once */
  others_until: string | null;
}

/** A phase as an interval, in seconds since its startup began; phases may overlap. */
export interface SpanView {
  /** boot, pull, import, fetch, load, warm or first_task */
  phase: string;
  /** null for work shared by all models */
  model: string | null;
  start_s: number;
  /** null while running, or if the startup died in it */
  end_s: number | null;
  /** the cache that served it: fork, compiled, host, disk, bucket; empty for none */
  from: string;
}

/** How long a model took, as its author measured it. Args: device: Such as `one core of an Apple M2` or `NVIDIA L4`. what: Such as `512 x 512, 12 steps`. took_s: Seconds. measured_on: Day, such as `2026-11-25`; empty where it is not known. */
export interface Speed {
  device: string;
  what: string;
  took_s: number;
  measured_on: string;
}

/** One model's part in a pipeline. */
export interface Stage {
  name: string;
  queue: string;
  take: Record<string, string | (string)[]>;
  fixed: Record<string, unknown>;
  when: string;
  reject: string;
  reason: string;
  counts: boolean;
}

/** A stage of a pipeline. */
export interface StageView {
  name: string;
  model: string;
  version: string;
  /** `succeeded`, `skipped` (its condition was false), `waiting` for an earlier stage, `not_reached` if the task ended before, or else the task's state */
  state: string;
  output: unknown | null;
  artifacts: (ArtifactView)[];
  /** attempts of this stage so far */
  attempts: number;
  worker: string | null;
  started_at: string | null;
  finished_at: string | null;
  timings: Timings | null;
  /** cost of the attempt's share of the device, in millionths of a dollar; null before its end, or if the pool has no price */
  cost_micros: number | null;
  seed: number | null;
}

/** One limit. */
export interface StandingView {
  /** name in the headers, such as `samples-day` */
  name: string;
  /** null for the key itself */
  user: string | null;
  /** tasks, samples, micros or credits */
  unit: string;
  /** day or month (UTC); null for credits */
  period: string | null;
  limit: number;
  left: number;
}

/** A cold start of a worker, a restart of its model process, or a switch of models. */
export interface StartupView {
  id: string;
  /** cold, restart or switch */
  kind: string;
  /** starting, died, ready or done (the first outcome) */
  state: string;
  pool: string;
  models: (string)[];
  host: string;
  pid: number;
  begun_at: string | null;
  seen_at: string | null;
  /** seconds until it takes tasks */
  ready_s: number | null;
  /** the same plus the first task, without the wait for it */
  whole_s: number | null;
  spans: (SpanView)[];
}

/** A stored output file. */
export interface StoredView {
  key: string;
  bytes: number;
  content_type: string;
  etag: string;
}

/** Styles, in display order. */
export interface StyleList {
  styles: (StyleView)[];
}

/** A style of the web app. */
export interface StyleView {
  name: string;
  label: string;
  /** language → label */
  labels: Record<string, string>;
  /** template with `{prompt}` for the prompt; empty for no change */
  prompt: string;
  /** further input for the model */
  input: Record<string, unknown>;
  /** models it is for; empty for any */
  models: (string)[];
  /** URL without a key, with constant content */
  picture: string | null;
}

/** How often a worker has loaded or changed a model since it started. */
export interface SwitchesView {
  /** loads from disk */
  disk: number;
  /** loads from host memory */
  host: number;
  /** changes of LoRAs */
  loras: number;
}

/** Why a task failed. */
export interface TaskError {
  code: string;
  title: string;
  detail: string;
}

/** Tasks, newest first; `cursor` gets the next page and is null at the end. */
export interface TaskList {
  tasks: (TaskView)[];
  cursor: string | null;
}

/** A request for a task. */
export interface TaskRequest {
  /** `owner/name`, or `owner/name:version` for one version */
  model: string;
  /** The model's input; GET /v1/models/{owner}/{name} shows its schema */
  input: Record<string, unknown>;
  /** number of samples (pictures) */
  count?: number;
  /** 0 goes before the key's other tasks; 2 or more goes after everyone's usual tasks, with at least one of twenty turns */
  priority?: number;
  class?: string | null;
  seed?: number | null;
  user?: string | null;
  start_by_s?: number | null;
  finish_by_s?: number | null;
  /** changes that you accept if the task would miss a deadline or no worker can run it */
  degrade?: DegradeRequest | null;
  /** number of attempts, including those of lost workers */
  max_attempts?: number;
  /** any JSON up to 16 KiB, returned unchanged */
  metadata?: Record<string, unknown> | unknown[] | string | number | boolean | null;
  webhook?: string | WebhookRequest | null;
}

export type TaskState = "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded";

/** Related URLs of a task. */
export interface TaskUrls {
  get: string;
  cancel: string;
  events: string;
}

/** A task. */
export interface TaskView {
  id: string;
  model: string;
  version: string;
  state: TaskState;
  input: Record<string, unknown>;
  output: unknown | null;
  artifacts: (ArtifactView)[];
  /** what the model says about the result; of a pipeline, all its stages */
  warnings: (TaskWarning)[];
  error: TaskError | null;
  attempt: number;
  max_attempts: number;
  /** place in the queue, 1 is next; null unless queued */
  position: number | null;
  /** seconds until it ends; null before any measurement */
  eta_s: EtaSeconds | null;
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  timings: Timings | null;
  /** cost of the last attempt's share of the device, in millionths of a dollar; null before its end, or if the pool has no price */
  cost_micros: number | null;
  seed: number | null;
  user: string | null;
  metadata: unknown | null;
  /** removed since the end: `inputs` (with metadata), `outputs` */
  data_removed: (string)[];
  urls: TaskUrls;
  /** changes made to accept the task; absent if none */
  degraded?: (ChangeView)[];
  /** id of its trace; present with telemetry.in_tasks */
  trace_id?: string;
  /** stages of a pipeline, in order, with their results */
  stages?: (StageView)[];
  /** the task's webhook, if it has one */
  webhook?: WebhookView;
  /** in lists: indexes of the viewer's favourite artifacts, if any */
  favourites?: (number)[];
}

/** What a model says about a task that succeeds, such as a word that it does not know. */
export interface TaskWarning {
  /** stable, to compare */
  code: string;
  /** one or two sentences for the user */
  message: string;
  /** prompts that work better; often empty */
  suggestions: (string)[];
}

/** Where the time went, in seconds. `queue_s` covers everything before the last attempt. `device_s` is the attempt's share of the device: with others beside it less than `run_s`. None where it is `run_s`, and of a worker that does not tell it. `paid_micros` is what the attempt has paid to others, such as an API, in millionths of a dollar. `cost_micros` is that and what its share of the device costs, where the pool has a price; the backend sets it, and shows it beside the timings. Of a pipeline's run they are the sums over the attempts by which its stages ended, and `queue_s` is what it waited in the queues of its stages. */
export interface Timings {
  queue_s: number;
  load_s: number;
  run_s: number;
  encode_s: number;
  upload_s: number;
  device_s: number | null;
  cost_micros: number | null;
  paid_micros: number;
}

/** One attempt to deliver. */
export interface TryView {
  at: string;
  took_s: number;
  status: number | null;
  /** `timeout`, `connection`, `refused_url`, `redirect`, `gone`, `status`, `unsendable` or `internal`; empty on success */
  error: string;
  detail: string;
  /** first bytes of the answer */
  answer: string;
}

/** A stored input file; the URL is signed and expires. */
export interface UploadView {
  key: string;
  url: string;
  content_type: string;
  bytes: number;
  expires_at: string;
}

/** The verdict on a canary. */
export interface VerdictView {
  /** `early` (too early to tell), `fine` or `worse` */
  verdict: string;
  reason: string;
  /** likelihood ratio for a canary that fails more often */
  failures_evidence: number;
  /** the same for one that is slower */
  slowness_evidence: number;
  /** threshold for `worse` */
  needed_evidence: number;
  canary: SeenView;
  live: SeenView;
}

/** The stage of a version. */
export interface VersionStageView {
  version: string;
  /** `trial`, `canary`, `live` or `retired` */
  stage: string;
  /** share of the tasks that name no version, while served */
  share: number;
  /** workers that have it, seen in the last 30 s */
  workers: number;
  registered_at: string | null;
}

/** A vote on a row. */
export interface VoteRequest {
  /** index of the row, from 0 */
  row: number;
  winner?: number | null;
  /** all cells are equally good; then there is no `winner` */
  tie?: boolean;
  /** name of the voter; empty for the key itself */
  voter?: string;
}

/** A stored vote. */
export interface VoteView {
  row: number;
  winner: number | null;
  tie: boolean;
  voter: string;
  at: string;
}

/** A webhook of a task. */
export interface WebhookRequest {
  /** http or https, on a public host, without user name and password */
  url: string;
  /** events to send; the four ends by default */
  events?: ("artifact" | "canceled" | "expired" | "failed" | "preview" | "progress" | "started" | "succeeded")[];
  /** the key's signing secret to use */
  secret?: string;
  /** format of the body: `native`, or the name of a compatible API */
  format?: string;
}

/** The webhook of a task. */
export interface WebhookView {
  url: string;
  events: (string)[];
  format: string;
}

/** Workers, oldest first. */
export interface WorkerList {
  workers: (WorkerView)[];
  /** cold starts of workers that are not ready yet */
  starting: (StartupView)[];
}

/** A worker. */
export interface WorkerView {
  id: string;
  name: string;
  pool: string;
  /** idle, busy, draining, lost or gone */
  state: string;
  models: Record<string, string>;
  slots: number;
  /** tasks under lease, as known to this backend */
  held: number;
  /** models on its device; null if all always are, or if unknown */
  residents: (string)[] | null;
  /** model → number of loads and changes, as known to this backend */
  switches: Record<string, SwitchesView>;
  device: string;
  host: string;
  pid: number;
  /** the provider's id of its machine; null if no provider launched it */
  instance: string | null;
  /** version of Swell */
  release: string;
  /** clock difference at registration, in seconds */
  clock_ahead_s: number;
  registered_at: string;
  seen_at: string;
  gone_at: string | null;
  /** its cold start by phase; null if unknown */
  startup: StartupView | null;
}

/** Every operation with its request and response. */
export interface Paths {
  "POST /v1/tasks": { body: TaskRequest; answer: TaskView };
  "POST /v1/tasks/batch": { body: BatchRequest; answer: BatchView };
  "POST /v1/estimate": { body: TaskRequest; answer: EstimateView };
  "GET /v1/quota": { query: { user?: string }; answer: AllowanceView };
  "GET /v1/tasks": { query: { state?: "canceled" | "expired" | "failed" | "queued" | "running" | "succeeded"; model?: string; user?: string; q?: string; since?: string; until?: string; viewer?: string; favourite?: boolean; cursor?: string; limit?: number }; answer: TaskList };
  "GET /v1/tasks/{id}": { path: { id: string }; answer: TaskView };
  "DELETE /v1/tasks/{id}": { path: { id: string }; answer: TaskView };
  "POST /v1/tasks/{id}/cancel": { path: { id: string }; answer: TaskView };
  "POST /v1/tasks/{id}/retry": { path: { id: string }; answer: TaskView };
  "GET /v1/tasks/{id}/events": { path: { id: string }; query: { after?: number }; answer: unknown };
  "PUT /v1/tasks/{id}/favourite": { path: { id: string }; query: { artifact?: number; viewer?: string }; answer: FavouritesView };
  "DELETE /v1/tasks/{id}/favourite": { path: { id: string }; query: { artifact?: number; viewer?: string }; answer: FavouritesView };
  "POST /v1/tasks/{id}/share": { path: { id: string }; body: ShareRequest; answer: ShareView };
  "GET /v1/tasks/{id}/share": { path: { id: string }; answer: ShareView };
  "DELETE /v1/tasks/{id}/share": { path: { id: string }; answer: ShareView };
  "GET /v1/shares": { query: { task_id?: string; cursor?: string; limit?: number }; answer: ShareList };
  "GET /v1/shares/{token}": { path: { token: string }; answer: SharedView };
  "POST /v1/shares/{token}/guest": { path: { token: string }; answer: NewKeyView };
  "GET /v1/shares/{token}/pictures/{number}": { path: { token: string; number: string }; query: { w?: number }; answer: unknown };
  "GET /v1/models": { answer: ModelList };
  "GET /v1/models/{owner}/{name}": { path: { owner: string; name: string }; answer: ModelView };
  "GET /v1/models/{owner}/{name}/versions": { path: { owner: string; name: string }; answer: ModelList };
  "GET /v1/models/{owner}/{name}/samples/{digest}": { path: { owner: string; name: string; digest: string }; answer: unknown };
  "GET /v1/models/{owner}/{name}/adoption": { path: { owner: string; name: string }; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/canary": { path: { owner: string; name: string }; body: CanaryRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/promote": { path: { owner: string; name: string }; body: PromoteRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/rollback": { path: { owner: string; name: string }; body: RollbackRequest; answer: AdoptionView };
  "POST /v1/models/{owner}/{name}/retire": { path: { owner: string; name: string }; body: RetireRequest; answer: AdoptionView };
  "GET /v1/styles": { answer: StyleList };
  "GET /v1/styles/{digest}": { path: { digest: string }; answer: unknown };
  "POST /v1/uploads": { query: { filename?: string }; answer: UploadView };
  "GET /v1/artifacts/{key}": { path: { key: string }; answer: unknown };
  "PUT /v1/artifacts/{key}": { path: { key: string }; answer: StoredView };
  "POST /v1/comparisons": { body: ComparisonRequest; answer: NewComparisonView };
  "GET /v1/comparisons": { query: { cursor?: string; limit?: number }; answer: ComparisonList };
  "GET /v1/comparisons/{id}": { path: { id: string }; query: { voter?: string; names?: boolean }; answer: ComparisonView };
  "POST /v1/comparisons/{id}/votes": { path: { id: string }; body: VoteRequest; answer: VoteView };
  "POST /v1/comparisons/{id}/ballots": { path: { id: string }; body: BallotRequest; answer: VoteView };
  "POST /v1/comparisons/{id}/close": { path: { id: string }; answer: ComparisonView };
  "DELETE /v1/comparisons/{id}": { path: { id: string }; answer: ComparisonView };
  "GET /v1/ratings": { answer: RatingList };
  "POST /v1/webhooks": { body: EndpointRequest; answer: EndpointView };
  "GET /v1/webhooks": { answer: EndpointList };
  "GET /v1/webhooks/secrets/{name}": { path: { name: string }; answer: HookSecretView };
  "POST /v1/webhooks/secrets/{name}/rotate": { path: { name: string }; body: HookRotateRequest; answer: HookSecretView };
  "GET /v1/webhooks/{id}": { path: { id: string }; answer: EndpointView };
  "DELETE /v1/webhooks/{id}": { path: { id: string }; answer: EndpointView };
  "POST /v1/webhooks/{id}/pause": { path: { id: string }; answer: EndpointView };
  "POST /v1/webhooks/{id}/resume": { path: { id: string }; answer: EndpointView };
  "GET /v1/webhooks/{id}/secret": { path: { id: string }; answer: HookSecretView };
  "POST /v1/webhooks/{id}/rotate": { path: { id: string }; body: HookRotateRequest; answer: EndpointView };
  "POST /v1/webhooks/{id}/replay": { path: { id: string }; body: HookReplayRequest; answer: HookReplayView };
  "GET /v1/webhooks/deliveries": { query: { task?: string; endpoint?: string; state?: "delivered" | "failed" | "skipped" | "waiting"; limit?: number; cursor?: string }; answer: DeliveryList };
  "GET /v1/webhooks/deliveries/{id}": { path: { id: string }; answer: DeliveryView };
  "POST /v1/webhooks/deliveries/{id}/replay": { path: { id: string }; answer: DeliveryView };
  "GET /v1/queues": { answer: QueueList };
  "GET /v1/workers": { query: { gone?: boolean }; answer: WorkerList };
  "POST /v1/workers/{id}/drain": { path: { id: string }; answer: WorkerView };
  "GET /v1/pools": { answer: PoolList };
  "GET /v1/scaling": { query: { limit?: number }; answer: ScalingView };
  "GET /v1/costs": { query: { from?: string; to?: string; by?: "day" | "key" | "model" | "pool" | "user"; limit?: number }; answer: CostsList };
  "GET /v1/ledger": { query: { limit?: number; cursor?: number }; answer: LedgerList };
  "GET /v1/dead": { query: { model?: string; cursor?: string; limit?: number }; answer: TaskList };
  "POST /v1/dead/{id}/replay": { path: { id: string }; answer: TaskView };
  "POST /v1/dead/replay": { body: DeadReplayRequest; answer: DeadReplayView };
  "GET /v1/quotas": { answer: QuotaList };
  "PUT /v1/quotas": { body: QuotaRequest; answer: QuotaView };
  "DELETE /v1/quotas": { query: { key_id?: string; user?: string }; answer: QuotaList };
  "GET /v1/credits": { query: { key_id?: string; limit?: number }; answer: CreditsList };
  "POST /v1/credits": { body: CreditRequest; answer: GrantView };
  "POST /v1/keys": { body: KeyRequest; answer: NewKeyView };
  "GET /v1/keys": { answer: KeyList };
  "GET /v1/keys/self": { answer: KeyView };
  "DELETE /v1/keys/{id}": { path: { id: string }; answer: KeyView };
  "POST /v1/keys/{id}/rotate": { path: { id: string }; body: RotateRequest; answer: NewKeyView };
  "POST /v1/signing/rotate": { body: RotateSigningRequest; answer: SigningView };
  "GET /v1/audit": { query: { cursor?: string; limit?: number }; answer: AuditList };
  "GET /health/live": { answer: HealthView };
  "GET /health/ready": { answer: HealthView };
  "GET /metrics": { answer: unknown };
  "GET /openapi.json": { answer: Record<string, unknown> };
  "GET /llms.txt": { answer: unknown };
}
