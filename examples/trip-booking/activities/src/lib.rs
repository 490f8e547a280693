//! Hotel and flight, by HTTP. Every request carries the call's idempotency key:
//! an attempt that is repeated after a crash reserves nothing twice.

use dacapo_sdk::{ActivityContext, Error, Result, http};
use serde::{Serialize, de::DeserializeOwned};
use trip_booking_api::{Flight, FlightActivities, FlightRequest, Hotel, HotelActivities, HotelRequest, Reservation};

struct HotelDesk;

impl Hotel for HotelDesk {
    async fn reserve(&self, ctx: ActivityContext, request: HotelRequest) -> Result<Reservation> {
        post(&ctx, "/hotel/reservations", &request).await
    }

    async fn cancel(&self, ctx: ActivityContext, reservation: Reservation) -> Result<()> {
        post(&ctx, "/hotel/cancellations", &reservation).await
    }
}

struct FlightDesk;

impl Flight for FlightDesk {
    async fn reserve(&self, ctx: ActivityContext, request: FlightRequest) -> Result<Reservation> {
        post(&ctx, "/flight/reservations", &request).await
    }
}

/// 422 is the service's word for a request that it will never grant.
async fn post<T: DeserializeOwned>(ctx: &ActivityContext, path: &str, body: &impl Serialize) -> Result<T> {
    let url = std::env::var("BOOKING_URL").map_err(|e| Error::from(e).context("BOOKING_URL"))?;
    let answer = http::post(url + path).idempotency_key(ctx).json(body).send().await?;
    if answer.status == 422 {
        let reason = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(Error::new(reason).with_type("Declined").non_retryable());
    }
    answer.success()?.json()
}

dacapo_sdk::export_activities!(HotelActivities(HotelDesk), FlightActivities(FlightDesk));
