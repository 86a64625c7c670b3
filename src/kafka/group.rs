//! What a group's coordinator holds for assigned to one of its members: asked without waiting, as librdkafka's own safe wrapper
//! has no call for it.
//!
//! Must not: judge the answer, or wait for it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::types::RDKafkaRespErr;

/// How long the coordinator may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A question that is under way. Dropping it forgets the answer.
pub struct AssignedByGroup<C: ConsumerContext + 'static> {
    // Before the consumer, whose queue it is.
    queue: Queue,
    topic: String,
    member: CString,
    _consumer: Arc<BaseConsumer<C>>,
}

/// A queue of librdkafka that is destroyed once.
struct Queue(*mut sys::rd_kafka_queue_t);

#[expect(unsafe_code, reason = "librdkafka's queues may be used from any thread")]
// SAFETY: rdkafka.h calls all of its functions thread-safe; the pointer is this value's alone.
unsafe impl Send for Queue {}

impl Drop for Queue {
    #[expect(unsafe_code, reason = "the only way to give a queue back")]
    fn drop(&mut self) {
        // SAFETY: the queue was made by rd_kafka_queue_new, and is destroyed here alone.
        unsafe { sys::rd_kafka_queue_destroy(self.0) }
    }
}

impl<C: ConsumerContext + 'static> AssignedByGroup<C> {
    /// Asks the coordinator of `group`. None where the consumer is no member yet, or a name holds a NUL.
    #[expect(unsafe_code, reason = "rd_kafka_DescribeConsumerGroups has no safe wrapper")]
    pub fn ask(consumer: &Arc<BaseConsumer<C>>, group: &str, topic: &str) -> Option<Self> {
        let group = CString::new(group).ok()?;
        let client = consumer.client().native_ptr();
        let member = member_id(consumer)?;
        // SAFETY: the client lives as long as `consumer`, which the value that is returned holds. The options are copied by the
        // call and destroyed here. librdkafka copies the group's name before it returns.
        let queue = unsafe {
            let options = sys::rd_kafka_AdminOptions_new(
                client,
                sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            );
            let timeout_ms = i32::try_from(TIMEOUT.as_millis()).unwrap_or(i32::MAX);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, std::ptr::null_mut(), 0);
            let queue = Queue(sys::rd_kafka_queue_new(client));
            let mut groups = [group.as_ptr()];
            sys::rd_kafka_DescribeConsumerGroups(client, groups.as_mut_ptr(), groups.len(), options, queue.0);
            sys::rd_kafka_AdminOptions_destroy(options);
            queue
        };
        Some(Self { queue, topic: topic.to_owned(), member, _consumer: Arc::clone(consumer) })
    }

    /// The answer, where it is there: the partitions of the topic, in order, that the coordinator holds for assigned to this
    /// member. `Some(None)` where the group could not be described, or does not know the member.
    #[expect(unsafe_code, reason = "reads what rd_kafka_DescribeConsumerGroups answered")]
    pub fn answer(&self) -> Option<Option<Vec<i32>>> {
        // SAFETY: the queue is alive; the event is destroyed after the last use of what it owns.
        unsafe {
            let event = sys::rd_kafka_queue_poll(self.queue.0, 0);
            if event.is_null() {
                return None;
            }
            let assigned = self.read(event);
            sys::rd_kafka_event_destroy(event);
            Some(assigned)
        }
    }

    /// # Safety
    /// `event` is an event of librdkafka that was not destroyed.
    #[expect(unsafe_code, reason = "reads what rd_kafka_DescribeConsumerGroups answered")]
    unsafe fn read(&self, event: *mut sys::rd_kafka_event_t) -> Option<Vec<i32>> {
        // SAFETY: all pointers belong to `event`, and are read before it is destroyed; each is checked before it is followed.
        unsafe {
            if sys::rd_kafka_event_error(event) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            let result = sys::rd_kafka_event_DescribeConsumerGroups_result(event);
            if result.is_null() {
                return None;
            }
            let mut count = 0;
            let groups = sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
            if groups.is_null() || count == 0 {
                return None;
            }
            let group = *groups;
            if !sys::rd_kafka_ConsumerGroupDescription_error(group).is_null() {
                return None;
            }
            let mut members = (0..sys::rd_kafka_ConsumerGroupDescription_member_count(group))
                .map(|index| sys::rd_kafka_ConsumerGroupDescription_member(group, index));
            let member = members.find(|&member| {
                let id = sys::rd_kafka_MemberDescription_consumer_id(member);
                !id.is_null() && CStr::from_ptr(id) == self.member.as_c_str()
            })?;
            let assignment = sys::rd_kafka_MemberDescription_assignment(member);
            if assignment.is_null() {
                return None;
            }
            let list = sys::rd_kafka_MemberAssignment_partitions(assignment);
            if list.is_null() || (*list).elems.is_null() {
                return Some(Vec::new());
            }
            let elements = std::slice::from_raw_parts((*list).elems, usize::try_from((*list).cnt).unwrap_or(0));
            let is_ours =
                |topic: *const c_char| !topic.is_null() && CStr::from_ptr(topic).to_bytes() == self.topic.as_bytes();
            let mut ids: Vec<i32> =
                elements.iter().filter(|element| is_ours(element.topic)).map(|element| element.partition).collect();
            ids.sort_unstable();
            Some(ids)
        }
    }
}

/// The id under which the group knows this consumer; None where it has none yet.
#[expect(unsafe_code, reason = "rd_kafka_memberid has no safe wrapper")]
fn member_id<C: ConsumerContext + 'static>(consumer: &BaseConsumer<C>) -> Option<CString> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive; the text is copied, and then given back to the allocator that it came from.
    unsafe {
        let id = sys::rd_kafka_memberid(client);
        if id.is_null() {
            return None;
        }
        let copy = CStr::from_ptr(id).to_owned();
        sys::rd_kafka_mem_free(client, id.cast::<c_void>());
        (!copy.is_empty()).then_some(copy)
    }
}
